"""Fetching of commits into a bare repository: from a remote, or from a bundle."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anyarch.errors import BuildError

from .gitcli import GitFailed
from .giturl import is_commit, redacted

if TYPE_CHECKING:
    from pathlib import Path

    from .git import GitSource, Resolved
    from .gitcli import Git

__all__ = ["bundled_name", "clear_locks", "fetch", "fetch_bundle", "has_commit"]


def has_commit(git: Git, resolved: Resolved) -> bool:
    return git.succeeds("cat-file", "-e", f"{resolved.object}^{{commit}}")


def clear_locks(directory: Path) -> None:
    """What a killed git left; nobody else works here."""
    for folder in (directory, *(path for path in (directory / "refs").rglob("*") if path.is_dir())):
        for path in folder.glob("*.lock"):
            path.unlink()


def fetch_bundle(git: Git, bundle: Path, source: GitSource, resolved: Resolved) -> None:
    what = f"failed to import git bundle {source.bundle}"
    place = f"+refs/*:refs/anyarch/bundles/{resolved.object}/*"
    git.run("fetch", "--no-tags", "--no-write-fetch-head", "--force", "--", str(bundle), place, what=what)
    if not has_commit(git, resolved):
        raise BuildError(f"commit {resolved.object} not found in bundle {source.bundle}")


def fetch(git: Git, remote: str, resolved: Resolved, *, whole: bool) -> None:
    """As little as the server lets us: the ref, else the commit, else all branches and tags; with `whole`
    each with its history."""
    what = f"failed to fetch remote {redacted(remote)}"
    common = ("fetch", "--no-tags", "--no-write-fetch-head", "--force")
    if not is_commit(resolved.ref) and resolved.ref != resolved.object:
        place = f"+{resolved.ref}:refs/anyarch/{resolved.object}"
        _shallow(git, *common, "--", remote, place, what=what, whole=whole)
        if has_commit(git, resolved):
            return  # else the ref has moved since it was resolved
    try:
        place = f"+{resolved.object}:refs/anyarch/{resolved.object}"
        _shallow(git, *common, "--", remote, place, what=what, whole=whole)
    except GitFailed as error:
        if not _refuses_objects(error.stderr):
            raise
        deepen = ["--unshallow"] if (git.git_dir is not None and (git.git_dir / "shallow").exists()) else []
        places = ("+refs/heads/*:refs/anyarch/heads/*", "+refs/tags/*:refs/anyarch/tags/*")
        git.run(*common, *deepen, "--", remote, *places, what=what, is_loud=True)
    if not has_commit(git, resolved):
        raise BuildError(
            f"commit {resolved.object} cannot be found in {redacted(remote)}",
            hint="it may have been removed, or be on no branch or tag",
        )


def _shallow(git: Git, *arguments: str, what: str, whole: bool) -> None:
    head, *rest = arguments
    if whole:
        git.run(head, *rest, what=what, is_loud=True)
        return
    try:
        git.run(head, "--depth=1", *rest, what=what, is_loud=True)
    except GitFailed as error:
        if "shallow" not in error.stderr and "--depth" not in error.stderr:
            raise
        git.run(head, *rest, what=what, is_loud=True)  # a plain file server


def _refuses_objects(stderr: str) -> bool:
    return any(
        text in stderr
        for text in ("not our ref", "unadvertised object", "couldn't find remote ref", "no such remote ref")
    )


def bundled_name(ref: str) -> str:
    """What a bundle calls what it holds."""
    if is_commit(ref):
        return "refs/heads/main"  # nothing was asked for by name
    if ref.startswith("refs/tags/"):
        return ref
    return "refs/heads/" + ref.removeprefix("refs/").removeprefix("heads/")
