"""Layers as archives: tar codec, compression, whiteouts, diff and apply of trees. No store, no network."""
