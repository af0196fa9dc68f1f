"""What people ask of a sweep, and leave in its folder for its driver."""
