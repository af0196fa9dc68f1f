"""The index of a storage folder: SQLite, filled from the journals, and never the truth.

`index.open_index` opens it. It can be thrown away at any time, and is when it is damaged or of
another version: the journals hold everything.
"""
