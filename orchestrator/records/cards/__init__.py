"""Adapter cards: what each adapter knows, what it was made from, and which it came from."""
