"""MLflow as a projection of the journal, and its model registry."""
