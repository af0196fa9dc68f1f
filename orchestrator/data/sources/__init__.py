"""Rows of a task's source: files or the hub, their splits and their columns."""
