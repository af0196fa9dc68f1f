"""What a storage folder holds, asked quickly: an index of its journals, and the query language."""
