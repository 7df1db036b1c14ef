"""One module a command: `COMMAND` says what it accepts, `run` does it. Only the chosen one is imported."""
