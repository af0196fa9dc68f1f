"""What to try next: searchers, one for all or one for each method, and what they know before."""
