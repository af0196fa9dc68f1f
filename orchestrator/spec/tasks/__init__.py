"""Kinds of tasks: what every kind says of itself, and one file for each kind."""
