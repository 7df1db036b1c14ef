"""Sets of twins: from the packages of a foreign tree and of native ones to files and a dispatcher's table."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import msgspec

from anyarch.archive.entry import Kind
from anyarch.elf.header import parse
from anyarch.emulation.accelerate.dispatcher import PAGE, Twin, identity
from anyarch.emulation.accelerate.natives import Natives, read_file
from anyarch.emulation.accelerate.packages import is_same_source
from anyarch.emulation.accelerate.selection import (
    allowed_programs,
    arguments_of,
    conditions,
)
from anyarch.errors import NotSupported, PathNotFound

if TYPE_CHECKING:
    from anyarch.emulation.accelerate.dispatcher import Identity
    from anyarch.emulation.accelerate.packages import Packages

__all__ = ["Chosen", "choose_tools", "identity_of", "state_of"]

_DIRECTORIES = ("bin", "sbin", "usr/bin", "usr/sbin", "usr/lib/apt/methods")


class Chosen(msgspec.Struct):
    """Twins and the files that they are made of (by path below `HIDDEN`). `emulated` says by package or path
    why there are none."""

    twins: list[Twin]
    files: dict[str, bytes]
    emulated: dict[str, str]


def choose_tools(
    target: Packages,
    native: Packages,
    group: str,
    *,
    host: str,
    architecture: str,
    root: Packages | None = None,
) -> Chosen:
    """Twins of everyday tools: from packages that both trees have in the same version, libraries included,
    and whose programs are as the packages brought them. `root` is the tree that has the foreign libraries,
    where that is not `target`."""
    natives = Natives(native, group, host=host, target=architecture)
    chosen = Chosen([], natives.files, {})
    rules = conditions(architecture)
    for package in sorted(target.installed):
        names = allowed_programs(package, architecture)
        if not names:
            continue
        own, other = target.version(package), native.version(package)
        if not other:
            chosen.emulated[package] = "the native image does not have it"
            continue
        if not is_same_source(own, other):
            chosen.emulated[package] = f"version {own}, but {other} in the native image"
            continue
        for path in target.files(package):
            directory, _, name = path.rpartition("/")
            if name not in names or directory not in _DIRECTORIES:
                continue
            try:
                twin = _tool(target, root or target, native, natives, package, path, architecture)
            except NotSupported as error:
                chosen.emulated[f"/{path}"] = error.message
                continue
            if twin is not None:
                chosen.twins.append(msgspec.structs.replace(twin, conditions=rules))
    return chosen


def state_of(target: Packages, native: Packages, architecture: str) -> bytes:
    """A digest of all in a tree that decides on the twins that `native` has for it: the packages that both
    have, and the programs as they are."""
    common = sorted(set(target.installed) & set(native.installed))
    whole = hashlib.sha256(repr([(name, target.version(name)) for name in common]).encode())
    for package in common:
        names = allowed_programs(package, architecture)
        for path in target.files(package) if names else ():
            if path.rpartition("/")[2] in names:
                whole.update(repr((path, identity_of(target, path))).encode())
    return whole.digest()


def _tool(
    target: Packages,
    root: Packages,
    native: Packages,
    natives: Natives,
    package: str,
    path: str,
    architecture: str,
) -> Twin | None:
    found = identity_of(target, path)
    if found is None:
        return None  # a link or a script
    for tree, whose in ((target, "this image"), (native, "the native image")):
        if not tree.is_intact(package, path):
            raise NotSupported(f"/{path} of {whose} is not the package's")
    for soname, library in natives.libraries_of(path).items():
        owner = native.owner(library)
        if not is_same_source(native.version(owner), root.version(owner)):
            raise NotSupported(
                f"it needs {soname} of {owner or 'no package'} {native.version(owner)}, "
                f"and this image has {root.version(owner) or 'none'}"
            )
    name = path.rpartition("/")[2]
    return Twin(
        f"/{path}",
        natives.program(path, path, like=read_file(target, path)),
        (found,),
        arguments=arguments_of(name, architecture),
    )


def identity_of(packages: Packages, path: str) -> Identity | None:
    """Of a program in a tree; None for what is no ELF program, for links, and for one that changes its
    user."""
    try:
        parent, _, name = path.rpartition("/")
        node = packages.tree.lookup(f"{packages.tree.resolve(parent)}/{name}")
    except PathNotFound:
        return None
    if node is None or node.entry.kind not in (Kind.FILE, Kind.HARDLINK):
        return None
    entry = packages.tree.target(node).entry
    if entry.mode & 0o6000 or not entry.mode & 0o111:
        return None
    with packages.tree.open(node) as file:
        head = file.read(PAGE)
    if parse(head) is None:
        return None
    return identity(head, size=entry.size, mtime=entry.mtime_ns // 1_000_000_000)
