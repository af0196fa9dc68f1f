"""What a running sweep knows and decides, by what changes together; `Driver` puts it to work."""
