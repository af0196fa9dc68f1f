"""`runs list`: the sweeps of a storage folder and their trials, from its index."""
