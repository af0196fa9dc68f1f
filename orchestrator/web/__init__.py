"""Pages about sweeps, trials and champions, for a browser on this machine."""
