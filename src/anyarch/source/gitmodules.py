"""What .gitmodules says of submodules, taken as the word of a stranger: URLs and names are checked."""

from __future__ import annotations

import os
import posixpath
from typing import TYPE_CHECKING

import msgspec

from anyarch.errors import BuildError, UsageError

from .giturl import parse_git_url, redacted

if TYPE_CHECKING:
    from pathlib import Path

    from .gitcli import Git

__all__ = ["Module", "link_module", "module_dir", "submodule_remote", "submodules"]


class Module(msgspec.Struct, frozen=True):
    """One section of .gitmodules."""

    name: str
    url: str
    update: str


def submodules(git: Git, commit: str) -> dict[str, Module]:
    """By path, what .gitmodules says."""
    name = f"{commit}:.gitmodules"
    if not git.succeeds("cat-file", "-e", name):
        return {}
    sections: dict[str, dict[str, str]] = {}
    for item in git.run("config", "-z", "--no-includes", "--blob", name, "--list").split(b"\0"):
        key, _, value = os.fsdecode(item).partition("\n")
        section, _, field = key.rpartition(".")
        if section.startswith("submodule."):
            sections.setdefault(section.removeprefix("submodule."), {})[field] = value
    return {
        fields["path"].rstrip("/"): Module(module, fields.get("url", ""), fields.get("update", ""))
        for module, fields in sections.items()
        if "path" in fields
    }


def submodule_remote(parent: str, url: str) -> str:
    """The remote of a submodule: a URL, or a path relative to its parent's. Raises `BuildError`."""
    if url.startswith(("./", "../")):
        scheme, separator, rest = parent.partition("://")
        if separator:
            host, slash, path = rest.partition("/")
            base = f"{scheme}://{host}{slash}"
        else:
            host, colon, path = parent.partition(":")
            base = f"{host}{colon}"
        joined = posixpath.normpath(posixpath.join("/", path, url))
        return base + (joined if path.startswith("/") else joined.lstrip("/"))
    try:
        known = parse_git_url(url)
    except UsageError:
        known = None
    if known is None:
        raise BuildError(
            f"submodule of {redacted(parent)} has a URL that is not allowed: {url}",
            hint="https, http, ssh and git are; add ?submodules=false to the URL to leave submodules out",
        )
    return url


def module_dir(git_dir: Path, name: str) -> Path:
    """Where the git directory of a submodule goes; its name must not lead elsewhere."""
    parts = name.split("/")
    if not name or any(part in ("", ".", "..") for part in parts) or "\\" in name:
        raise BuildError(f"submodule name {name!r} is not allowed")
    place = git_dir / "modules"
    place.mkdir(exist_ok=True)
    for part in parts[:-1]:
        place = place / part
        place.mkdir(exist_ok=True)
    return place / parts[-1]


def link_module(git: Git, module: Module, remote: str, *, git_dir: Path, own: Path, place: Path) -> None:
    """Let the submodule's files at `place` find their git directory `own`, and the other way round."""
    (place / ".git").write_text(f"gitdir: {os.path.relpath(own, place)}\n")
    config = ("config", "--file", str(own / "config"))
    git.run(*config, "core.worktree", os.path.relpath(place, own))
    config = ("config", "--file", str(git_dir / "config"))
    git.run(*config, f"submodule.{module.name}.active", "true")
    git.run(*config, f"submodule.{module.name}.url", redacted(remote))
