"""Sources from elsewhere: what a source or context text is, and the states of git repositories."""

from __future__ import annotations

import posixpath
from typing import TYPE_CHECKING

from anyarch.source.giturl import is_git, parse_git_ref, parse_git_url

if TYPE_CHECKING:
    from anyarch.llb.state import Constraints, State
    from anyarch.source.giturl import GitRef

__all__ = ["git_state", "is_git", "is_http", "parse_git_ref"]


def is_http(text: str) -> bool:
    """A download."""
    return text.startswith(("http://", "https://")) and not is_git(text)


def git_state(
    ref: GitRef, constraints: Constraints, *, keep_git_dir: bool = False, checksum: str = "", mtime: str = ""
) -> State:
    """The checkout of `ref`. The last three count instead of what `ref` says of the same."""
    from anyarch.llb.source import git

    remote = f"https://{ref.remote}" if ref.looks_local else ref.remote
    url = parse_git_url(remote)
    assert url is not None
    # The same for all protocols; how to get there is in the attributes.
    identifier = url.host + posixpath.normpath(f"/{url.path.lstrip('/')}")
    if ref.ref or ref.subdir:
        identifier += f"#{ref.ref}" + (f":{ref.subdir}" if ref.subdir else "")
    attrs = {
        "git.fullurl": remote,
        "git.authtokensecret": "GIT_AUTH_TOKEN",
        "git.authheadersecret": "GIT_AUTH_HEADER",
    }
    if keep_git_dir:
        attrs["git.keepgitdir"] = "true"
    if url.scheme == "ssh":
        attrs["git.mountsshsock"] = "default"
    if checksum:
        attrs["git.checksum"] = checksum
    if ref.submodules is False:
        attrs["git.skipsubmodules"] = "true"
    if mtime:
        attrs["git.mtime"] = mtime
    if ref.fetch_by_commit:
        attrs["git.fetchbycommit"] = "true"
    return git(identifier, attrs, constraints=constraints)
