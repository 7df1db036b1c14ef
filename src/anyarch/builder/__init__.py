"""Builders: named groups of nodes, and what is built on them.

A builder instance is kept in buildx's own files, so both tools see the same ones (`store`). `driver` reaches
a node, `placement` says which node builds which platform, `merge` makes one image of what they built.
"""
