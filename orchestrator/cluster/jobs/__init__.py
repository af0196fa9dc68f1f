"""Sweeps as jobs of a Ray cluster: submitted, looked at, stopped and fetched over its dashboard."""
