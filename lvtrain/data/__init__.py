"""The store: text as integers on a disk, and the order in which it is read."""
