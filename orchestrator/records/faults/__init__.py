"""What went wrong and was survived; what can be kept of a damaged journal."""
