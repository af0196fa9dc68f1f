"""A chosen adapter and all that accounts for the choice in one file, and checking such a file."""
