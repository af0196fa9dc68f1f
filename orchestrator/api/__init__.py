"""Sweeps from Python: run, opened, and their trials as tables; `orchestrator` gives its names."""
