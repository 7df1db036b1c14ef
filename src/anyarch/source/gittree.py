"""What a commit holds: its time and its files, laid out by git's plumbing so that nothing of them runs."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from anyarch.errors import BuildError

if TYPE_CHECKING:
    from pathlib import Path

    from .gitcli import Git

__all__ = ["check_out", "committed_s", "is_below", "peel", "put_directory"]

_GITLINK = "160000"


def peel(git: Git, name: str) -> str:
    return git.run("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}").decode().strip()


def committed_s(git: Git, commit: str) -> int:
    raw = git.run("cat-file", "commit", commit)
    for line in raw.split(b"\n\n", 1)[0].split(b"\n"):
        if line.startswith(b"committer "):
            words = line.rpartition(b">")[2].split()
            if words and words[0].lstrip(b"-").isdigit():
                return max(0, int(words[0]))
    return 0


def check_out(git: Git, commit: str, tree: Path, subdir: str, shown: str) -> dict[str, str]:
    """Lay out what is below `subdir`. The submodules that have to do with it: path to commit."""
    tree.mkdir()
    index = tree.parent / "index"
    git.run("read-tree", commit, index=index)
    files: list[bytes] = []
    links: dict[str, str] = {}
    for item in git.run("ls-files", "--stage", "-z", index=index).split(b"\0"):
        facts, tab, raw = item.partition(b"\t")
        if not tab:
            continue
        mode, name, _ = facts.decode().split(" ")
        path = os.fsdecode(raw)
        if mode == _GITLINK:
            if not subdir or is_below(path, subdir) or is_below(subdir, path):
                links[path] = name
        elif not subdir or is_below(path, subdir):
            files.append(raw)
    if files:
        what = f"failed to checkout remote {shown}"
        names = b"\0".join((*files, b""))
        arguments = ("checkout-index", "--force", "--quiet", "-z", "--stdin")
        git.run(*arguments, index=index, work_tree=tree, stdin=names, what=what)
    for path in links:
        _directory(tree, path)
    return links


def is_below(path: str, directory: str) -> bool:
    return path == directory or path.startswith(f"{directory}/")


def _directory(tree: Path, path: str) -> Path:
    """Make a directory in the tree, never through a link."""
    place = tree
    for part in path.split("/"):
        place = place / part
        if part in ("", ".", "..") or place.is_symlink():
            raise BuildError(f"submodule path {path} is not a directory")
        place.mkdir(exist_ok=True)
    return place


def put_directory(source: Path, tree: Path, path: str) -> None:
    place = _directory(tree, path)
    try:
        place.rmdir()
    except OSError:
        raise BuildError(f"submodule path {path} is not empty") from None
    source.rename(place)
