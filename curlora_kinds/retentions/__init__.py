"""The kinds of retentions: one file each, and their table."""
