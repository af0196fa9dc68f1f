"""The pages, a file each: what is read for them, and what their templates show."""
