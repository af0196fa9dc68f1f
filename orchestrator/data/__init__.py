"""From the rows of a source to token ids: reading, splitting, encoding, batching."""
