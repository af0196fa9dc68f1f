"""The search space of an experiment: domains, conditions, assignments, and their checks."""
