"""The solver: vertices, edges, cache keys, jobs, progress events. Pure logic: no files, no network."""
