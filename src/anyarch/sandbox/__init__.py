"""Sandboxes for RUN steps: namespaces, overlay mounts, capabilities, seccomp; for root and for ordinary
users.
"""
