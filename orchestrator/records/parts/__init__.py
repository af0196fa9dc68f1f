"""A journal read in part: where its lines are, and what some of them say."""
