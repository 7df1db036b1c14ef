"""OCI distribution: hosts and mirrors, credentials, tokens, resolve, pull and push. Importing it loads no
network code."""
