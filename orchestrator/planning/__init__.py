"""What is known before a sweep: its plan, and what is in its way."""
