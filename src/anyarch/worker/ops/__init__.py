"""How each kind of operation is run: one module a kind."""
