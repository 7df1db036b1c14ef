"""A proxy between a step and the world: what it fetches is seen, decided on and written down, TLS too."""
