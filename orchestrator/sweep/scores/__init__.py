"""Scoring models that trials have kept: on test data, and on cells of their matrices."""
