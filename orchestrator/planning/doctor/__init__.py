"""What a machine needs to run a sweep, checked one by one."""
