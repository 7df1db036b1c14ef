"""The worker: binds store, snapshots, sandbox and sources, and knows how each operation is run."""
