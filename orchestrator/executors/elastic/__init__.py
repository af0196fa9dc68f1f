"""How much of a cluster a sweep holds: what is there, what may come, what other sweeps want."""
