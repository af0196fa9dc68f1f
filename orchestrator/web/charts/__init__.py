"""What the charts draw, as compact JSON: a list for each quantity, not an object for each trial."""
