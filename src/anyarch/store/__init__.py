"""One directory that holds blobs, layers and what the solver remembers; safe for several processes and for
`kill -9`."""
