"""What a client and a daemon do for one another while a build runs: files, secrets, agents, credentials.

`packet`, `sender` and `receiver` are the file transfer; `offer` is what a client serves.
Modules of the daemon's side ask for these through the tunnel inside `Control.Session`.
"""
