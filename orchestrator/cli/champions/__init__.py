"""The commands about champions, and their tables."""
