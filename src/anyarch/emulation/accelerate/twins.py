"""Sets of twins: from the packages of a foreign tree and of native ones to files and a dispatcher's table."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Protocol

import msgspec

from anyarch.archive.entry import Kind
from anyarch.elf.header import parse
from anyarch.emulation.accelerate.dispatcher import PAGE, Twin, identity
from anyarch.emulation.accelerate.libraries import Libraries
from anyarch.emulation.accelerate.loaders import OF_LOADER
from anyarch.emulation.accelerate.natives import Natives, read_file
from anyarch.emulation.accelerate.packages import is_same_source
from anyarch.emulation.accelerate.selection import NATIVE_ONLY, DebianTools
from anyarch.errors import NotSupported, PathNotFound

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anyarch.emulation.accelerate.dispatcher import ArgumentRule, Condition, Identity
    from anyarch.emulation.accelerate.packages import Packages

__all__ = ["Chosen", "Tools", "choose_tools", "identity_of", "state_of", "tools_of"]

_DIRECTORIES = ("bin", "sbin", "usr/bin", "usr/sbin", "usr/lib/apt/methods")


class Chosen(msgspec.Struct):
    """Twins and the files that they are made of (by path below `HIDDEN`). `emulated` says by package or path
    why there are none. `awaited` names what is made (`Workshop.is_wanted`) after a step in which the programs
    of these paths together have run often enough. `links` are symbolic links by name, beside the files."""

    twins: list[Twin]
    files: dict[str, bytes]
    emulated: dict[str, str]
    awaited: dict[str, tuple[str, ...]] = {}
    links: dict[str, str] = {}


class Tools(Protocol):
    """What is known of a distribution's tools."""

    names: Mapping[bytes, bytes]

    def programs(self, package: str) -> frozenset[str]:
        """Names of a package's programs that may have a twin."""

    def arguments(self, program: str) -> tuple[ArgumentRule, ...]:
        """What its arguments may not be."""

    def conditions(self, program: str, theirs: bytes, ours: bytes) -> tuple[Condition, ...]:
        """When a program's twin may run; `theirs` is the foreign one, `ours` the native one."""

    def texts(self, program: str, theirs: bytes, ours: bytes) -> dict[bytes, bytes] | None:
        """What in the native program becomes that of the foreign one; None for the architecture's names."""


def tools_of(target: Packages, native: Packages, *, host: str, architecture: str) -> Tools:
    """Those of the distribution that both trees are of. Raises `NotSupported` when they are of two."""
    if target.kind != native.kind:
        raise NotSupported(f"its packages are {target.kind}'s, those of the native image {native.kind}'s")
    if target.kind == "apk":
        from anyarch.emulation.accelerate.alpine import AlpineTools

        return AlpineTools(target, native, architecture)
    return DebianTools(host, architecture)


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
    where that is not `target`. Raises `NotSupported` when there are none for trees like these."""
    tools = tools_of(target, native, host=host, architecture=architecture)
    natives = Natives(native, group, host=host, target=architecture, names=tools.names)
    chosen = Chosen([], natives.files, {})
    libraries = Libraries(root or target, architecture)
    for package in sorted(target.installed):
        names = tools.programs(package)
        if not names:
            continue
        own, other = target.version(package), native.version(package)
        if not other:
            chosen.emulated[package] = "the native image does not have it"
            continue
        if not is_same_source(own, other):
            chosen.emulated[package] = f"version {own}, but {other} in the native image"
            continue
        origins = [packages.installed[package].origin for packages in (target, native)]
        if origins[0] != origins[1]:
            chosen.emulated[package] = f"it is built from {origins[0]}, the native one from {origins[1]}"
            continue
        for path in target.files(package):
            directory, _, name = path.rpartition("/")
            if name not in names or directory not in _DIRECTORIES:
                continue
            try:
                twin = _tool(target, root or target, libraries, native, natives, package, path, tools)
            except NotSupported as error:
                chosen.emulated[f"/{path}"] = error.message
                continue
            if twin is not None:
                chosen.twins.append(twin)
    return chosen


def state_of(target: Packages, native: Packages, *, host: str, architecture: str) -> bytes:
    """A digest of all in a tree that decides on the twins that `native` has for it: the packages that both
    have, the programs and the libraries as they are. Raises `NotSupported` as `choose_tools` does."""
    tools = tools_of(target, native, host=host, architecture=architecture)
    common = sorted(set(target.installed) & set(native.installed))
    whole = hashlib.sha256(repr([target.installed[name] for name in common]).encode())
    for package in common:
        names = tools.programs(package)
        for path in target.files(package) if names else ():
            if path.rpartition("/")[2] in names:
                whole.update(repr((path, identity_of(target, path))).encode())
    whole.update(repr(Libraries(target, architecture).state()).encode())
    return whole.digest()


def _tool(
    target: Packages,
    root: Packages,
    libraries: Libraries,
    native: Packages,
    natives: Natives,
    package: str,
    path: str,
    tools: Tools,
) -> Twin | None:
    found = identity_of(target, path)
    if found is None:
        return None  # a link or a script
    for tree, whose in ((target, "this image"), (native, "the native image")):
        if not tree.is_intact(package, path):
            raise NotSupported(f"/{path} of {whose} is not the package's")
    name = path.rpartition("/")[2]
    theirs, ours = read_file(target, path), read_file(native, path)
    texts = tools.texts(name, theirs, ours)
    for soname, library in natives.libraries_of(path).items():
        owner = native.owner(library)
        if (package, soname) in NATIVE_ONLY and not root.version(owner):
            texts = {}  # an architecture's name is for that library
            continue
        if not is_same_source(native.version(owner), root.version(owner)):
            raise NotSupported(
                f"it needs {soname} of {owner or 'no package'} {native.version(owner)}, "
                f"and this image has {root.version(owner) or 'none'}"
            )
        if not soname.startswith((OF_LOADER, "ld-linux")):
            libraries.check(soname, owner)
    return Twin(
        f"/{path}",
        natives.program(path, path, texts=texts, like=theirs),
        (found,),
        tools.conditions(name, theirs, ours),
        tools.arguments(name),
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
