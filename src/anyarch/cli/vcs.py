"""What a build's labels say of the git repository it is built from, as buildx has them: only when
BUILDX_GIT_LABELS asks for it."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from anyarch.cli.flags import parse_bool
from anyarch.errors import ContextError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["git_labels"]

REVISION = "org.opencontainers.image.revision"
SOURCE = "org.opencontainers.image.source"
ENTRYPOINT = "com.docker.image.source.entrypoint"


def git_labels(context: str, dockerfile: str | None, env: Mapping[str, str]) -> dict[str, str]:
    """Labels for a context directory in a git work tree; none elsewhere, or when they are not asked for.
    Raises `ContextError` where a repository is there and cannot be read."""
    wanted = env.get("BUILDX_GIT_LABELS", "")
    if (wanted != "full" and parse_bool(wanted) is not True) or not os.path.isdir(context):
        return {}
    root = _git(context, "rev-parse", "--show-toplevel")
    if not root:
        if os.path.isdir(os.path.join(context, ".git")):
            raise ContextError("failed to read current commit information with git rev-parse", hint=_HINT)
        return {}
    labels = {}
    if revision := _git(context, "rev-parse", "HEAD"):
        if parse_bool(env.get("BUILDX_GIT_CHECK_DIRTY", "")) is True and _is_dirty(context):
            revision += "-dirty"
        labels[REVISION] = revision
    if source := _remote(context):
        labels[SOURCE] = source
    path = os.path.realpath(dockerfile or os.path.join(context, "Dockerfile"))
    inside = os.path.relpath(path, os.path.realpath(root))
    if not inside.startswith(".."):
        labels[ENTRYPOINT] = inside
    return labels


_HINT = "is git installed, and the repository owned by you?"


def _git(directory: str, *words: str) -> str:
    """What git says, empty where it refuses or is not there."""
    try:
        done = subprocess.run(
            ["git", "-C", directory, *words], capture_output=True, stdin=subprocess.DEVNULL, check=False
        )
    except OSError:
        return ""
    return done.stdout.decode("utf-8", "replace").strip() if done.returncode == 0 else ""


def _is_dirty(directory: str) -> bool:
    return bool(_git(directory, "status", "--porcelain", "--ignored=no"))


def _remote(directory: str) -> str:
    """The address of the branch's remote, else of origin or upstream, without credentials."""
    branch = _git(directory, "symbolic-ref", "--short", "HEAD")
    names = [_git(directory, "config", f"branch.{branch}.remote")] if branch else []
    for name in dict.fromkeys([*names, "origin", "upstream"]):
        url = _git(directory, "remote", "get-url", name) if name else ""
        if url:
            split = urlsplit(url)
            return split._replace(netloc=split.netloc.rpartition("@")[2]).geturl() if split.netloc else url
    return ""
