"""Champions and challengers: who is in use, since when and why, compared, promoted, rolled back."""
