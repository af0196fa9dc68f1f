"""A look at who has the alias in MLflow, without MLflow, whose import alone takes seconds."""
