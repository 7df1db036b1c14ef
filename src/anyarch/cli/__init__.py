"""The command line: parsing, dispatch and the texts that a user meets. `main.main` is the way in."""
