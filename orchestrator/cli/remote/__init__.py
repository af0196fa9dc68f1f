"""The commands that talk to a Ray cluster which is elsewhere."""
