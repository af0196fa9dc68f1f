"""What a sweep records: journal, sweep folder, model folders, MLflow."""
