"""Commands that use what a sweep has chosen, beside `predict` and `export`."""
