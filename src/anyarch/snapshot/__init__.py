"""Layers of a file system in their several forms, and views of chains of them that need no mount."""
