"""The registry of a storage folder: who was champion since when, and what people did in MLflow."""
