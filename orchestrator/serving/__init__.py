"""Using trained adapters: finding, loading, asking and exporting them."""
