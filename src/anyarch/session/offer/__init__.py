"""What a client serves a build that runs elsewhere, each only as far as the build was given it: directories
(`files`), outputs (`outputs`), secrets and agents (`lent`), registry credentials (`credentials`), image
layouts (`content`). `offer` puts them into one session.
"""
