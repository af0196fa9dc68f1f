"""Noticing what hangs, what has gone and what waits in vain."""
