"""Many adapters trained at once on one frozen base."""
