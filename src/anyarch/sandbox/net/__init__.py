"""Networks of steps that are not the machine's: namespaces, what connects them, the pool they are in."""
