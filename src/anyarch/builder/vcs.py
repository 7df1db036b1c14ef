"""What a build's labels and record say of the git repository it is built from, as buildx has them.

| variable | |
|---|---|
| `BUILDX_GIT_LABELS` | labels of the image; only when it is set |
| `BUILDX_GIT_INFO` | attributes `vcs:…` of the build's record, unless it is false |
| `BUILDX_GIT_CHECK_DIRTY` | the revision of a changed work tree ends with `-dirty` |
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from anyarch.engine.grammar import truth
from anyarch.engine.request import Repository
from anyarch.errors import ContextError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["git_labels", "read_repository", "repository_of", "told_repository"]

REVISION = "org.opencontainers.image.revision"
SOURCE = "org.opencontainers.image.source"
ENTRYPOINT = "com.docker.image.source.entrypoint"
_HINT = "is git installed, and the repository owned by you?"
_HIDDEN = "xxxxx"


def git_labels(context: str, dockerfile: str | None, env: Mapping[str, str]) -> dict[str, str]:
    """Labels for a context directory in a git work tree; none elsewhere, or when they are not asked for.
    Raises `ContextError` where a repository is there and cannot be read."""
    wanted = env.get("BUILDX_GIT_LABELS", "")
    if wanted != "full" and truth(wanted) is not True:
        return {}
    repository = read_repository(context, env)
    if repository is None:
        return {}
    labels = {}
    if repository.revision:
        labels[REVISION] = repository.revision
    if repository.source:
        labels[SOURCE] = repository.source
    path = os.path.realpath(dockerfile or os.path.join(context, "Dockerfile"))
    inside = os.path.relpath(path, os.path.realpath(repository.root))
    if not inside.startswith(".."):
        labels[ENTRYPOINT] = inside
    return labels


def repository_of(context: str, env: Mapping[str, str]) -> Repository | None:
    """What the build's record tells; None when `BUILDX_GIT_INFO` is false. Raises as `read_repository`."""
    if truth(env.get("BUILDX_GIT_INFO", "")) is False:
        return None
    return read_repository(context, env)


def told_repository(context: str, env: Mapping[str, str], warn: Callable[[str], None]) -> Repository | None:
    """The same for a build, which is not given up for that alone: `warn` is told why there is none."""
    try:
        return repository_of(context, env)
    except ContextError as error:
        warn(f"current commit information was not captured by the build: {error.message}")
        return None


def read_repository(context: str, env: Mapping[str, str]) -> Repository | None:
    """The repository whose work tree a context directory is in. Raises `ContextError` for one that cannot be
    read."""
    if not os.path.isdir(context) or not _may_be_inside(context, env):
        return None
    root = _git(context, "rev-parse", "--show-toplevel")
    if not root:
        if os.path.isdir(os.path.join(context, ".git")):
            raise ContextError("failed to read current commit information with git rev-parse", hint=_HINT)
        return None
    revision = _git(context, "rev-parse", "--verify", "--quiet", "HEAD") or ""
    if revision and truth(env.get("BUILDX_GIT_CHECK_DIRTY", "")) is True and _is_dirty(context):
        revision += "-dirty"
    return Repository(root=root, source=_remote(context), revision=revision)


def _may_be_inside(directory: str, env: Mapping[str, str]) -> bool:
    """Whether it is worth asking git: a program more takes longer than to look upwards."""
    if "GIT_DIR" in env:
        return True
    path = os.path.realpath(directory)
    while not os.path.lexists(os.path.join(path, ".git")):
        above = os.path.dirname(path)
        if above == path:
            return False
        path = above
    return True


def _git(directory: str, *words: str) -> str | None:
    """What git says; None where it refuses or is not there."""
    import subprocess

    try:
        done = subprocess.run(
            ["git", "-C", directory, *words], capture_output=True, stdin=subprocess.DEVNULL, check=False
        )
    except OSError:
        return None
    return done.stdout.decode("utf-8", "replace").strip() if done.returncode == 0 else None


def _is_dirty(directory: str) -> bool:
    """Ignored files count too: the context may hold them."""
    return _git(directory, "status", "--porcelain", "--ignored") != ""


def _remote(directory: str) -> str:
    """The address of the branch's remote, else of origin or upstream, its credentials made unreadable."""
    branch = _git(directory, "symbolic-ref", "--short", "HEAD")
    names = [_git(directory, "config", f"branch.{branch}.remote")] if branch else []
    for name in dict.fromkeys([*names, "origin", "upstream"]):
        url = _git(directory, "remote", "get-url", name) if name else ""
        if url:
            return _redacted(url)
    return ""


def _redacted(url: str) -> str:
    from urllib.parse import urlsplit

    try:
        split = urlsplit(url)
    except ValueError:
        return url
    user, at, host = split.netloc.rpartition("@")
    if not at or not split.scheme:
        return url
    name, colon, _ = user.partition(":")
    hidden = (_HIDDEN if name else "") + (f":{_HIDDEN}" if colon else "")
    return split._replace(netloc=f"{hidden}@{host}" if hidden else host).geturl()
