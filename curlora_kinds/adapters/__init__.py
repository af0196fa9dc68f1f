"""The kinds of adapters: one file each, and their table."""
