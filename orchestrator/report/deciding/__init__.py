"""What a sweep decides, how its search went on, and what mattered in it."""
