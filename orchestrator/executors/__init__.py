"""Where trials run: in this process, in Ray Train workers, in a pool."""
