"""Which contexts and Dockerfiles are fetched, and which are paths of this machine."""

from __future__ import annotations

import os

__all__ = ["is_download", "is_remote"]


def is_download(path: str) -> bool:
    """Whether a Dockerfile is fetched."""
    return path.startswith(("http://", "https://")) and not os.path.exists(path)


def is_remote(context: str) -> bool:
    """Whether a context is fetched: a URL or a git repository."""
    from anyarch.source.giturl import is_git

    if context.startswith(("http://", "https://")):
        return True
    return (is_git(context) or context.startswith("github.com/")) and not os.path.isdir(context)
