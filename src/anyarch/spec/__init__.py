"""Leaf values that the specifications define: digests, platforms, references, OCI documents. No I/O."""
