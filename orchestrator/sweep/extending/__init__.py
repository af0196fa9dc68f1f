"""Learning on from a finished trial: what it left, the sweep that begins there, what came of it."""
