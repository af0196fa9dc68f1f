"""Model and data of the demonstration, fetched without a model hub."""
