"""Which method, for a model and its tasks: a portfolio of methods, and what is decided of them."""
