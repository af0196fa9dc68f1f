"""Old adapters, runs and caches: which may go, and letting them go."""
