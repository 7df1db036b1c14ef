"""The SQLite database of a store."""
