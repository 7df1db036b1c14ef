"""What a source or context text is: a git repository, a download, or a path."""

from __future__ import annotations

import re

__all__ = ["is_git", "is_http"]

_PROTOCOL = re.compile(r"([a-zA-Z0-9]+)://")
_SCP = re.compile(r"[a-zA-Z0-9_-]+@[a-zA-Z0-9.-]+:")


def is_git(text: str) -> bool:
    """A git repository that cannot be taken for a path: `git://`, `ssh://`, `user@host:path`,
    `http(s)://….git`."""
    match = _PROTOCOL.match(text)
    if match is None:
        return not text.startswith(("./", "../")) and _SCP.match(text) is not None
    protocol = match[1].lower()
    if protocol in ("http", "https"):
        path = re.split(r"[?#]", text, maxsplit=1)[0]
        return path.endswith(".git") and "/" in path[match.end() :]
    return protocol in ("git", "ssh")


def is_http(text: str) -> bool:
    """A download."""
    return text.startswith(("http://", "https://")) and not is_git(text)
