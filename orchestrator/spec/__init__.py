"""The files a user writes, experiments and tasks, read and checked without torch or ray."""
