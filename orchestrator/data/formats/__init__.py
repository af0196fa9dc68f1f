"""Rows of one file, by its format."""
