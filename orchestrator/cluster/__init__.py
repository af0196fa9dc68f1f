"""Sweeps on a cluster that is elsewhere."""
