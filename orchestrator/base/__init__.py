"""The base model: its files, sizes, identity and loading."""
