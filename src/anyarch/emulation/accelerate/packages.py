"""The packages of a tree: their versions, files, and whether those are as they came.

What tells is the database of the distribution's package manager (`dpkg`, `apk`).
"""

from __future__ import annotations

import posixpath
import re
from typing import TYPE_CHECKING, NamedTuple, Protocol

import msgspec

from anyarch.archive.entry import Kind
from anyarch.errors import PathNotFound

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anyarch.snapshot.tree import TreeView

__all__ = ["Checksum", "Package", "Packages", "is_same_source", "names"]

_REBUILT = re.compile(r"\+b[0-9]+$")


class Package(msgspec.Struct, frozen=True):
    """An installed package. `origin` is the source package that it was built from, where that is told."""

    name: str
    version: str
    architecture: str
    origin: str = ""


class Checksum(NamedTuple):
    """Of a file: the algorithm, and the digest or the beginning of it (hexadecimal)."""

    algorithm: str
    digest: str


class Database(Protocol):
    """What a package manager knows of a tree."""

    kind: str

    @property
    def installed(self) -> Mapping[str, Package]:
        """Packages by name."""

    def files(self, name: str) -> list[str]:
        """Paths as the package has them, without leading slash."""

    def checksum(self, name: str, path: str) -> Checksum | None:
        """What a file of the package had when it was made; None when not known."""


def is_same_source(version: str, other: str) -> bool:
    """Whether two versions of a package are of the same source: `+bN` counts how often a distribution has
    built it anew on one architecture, from the same files (Debian Policy 5.6.12)."""
    return bool(version) and _REBUILT.sub("", version) == _REBUILT.sub("", other)


def names(tree: TreeView, path: str) -> list[str]:
    """What is in a directory, sorted; nothing when there is none."""
    try:
        return tree.listdir(path)
    except PathNotFound:
        return []


class Packages:
    """The packages of a tree; without a database there are none."""

    def __init__(self, tree: TreeView) -> None:
        self.tree = tree
        self._database = _database(tree)
        self.kind = self._database.kind
        """`dpkg` or `apk`."""
        self.installed = self._database.installed
        self._owners: dict[str, str] | None = None

    def version(self, name: str) -> str:
        """Empty when it is not installed."""
        package = self.installed.get(name)
        return package.version if package is not None else ""

    def files(self, name: str) -> list[str]:
        """Paths as the package has them, without leading slash."""
        return self._database.files(name)

    def owner(self, path: str) -> str:
        """The package of the file that `path` leads to; empty when there is none."""
        if self._owners is None:
            self._owners = {}
            for name in self.installed:
                for each in self.files(name):
                    if ".so" in each:  # the owners of libraries are asked for
                        real, (parent, _, last) = self._real(each), each.rpartition("/")
                        is_file = real == f"{self._real(parent)}/{last}"  # others have links to it
                        if is_file or real not in self._owners:
                            self._owners[real] = name
        return self._owners.get(self._real(path), "")

    def is_intact(self, name: str, path: str) -> bool:
        """Whether the file is still the package's."""
        import hashlib

        wanted = self._database.checksum(name, path)
        node = self.tree.lookup(self._real(path))
        if wanted is None or node is None or node.entry.kind not in (Kind.FILE, Kind.HARDLINK):
            return False
        with self.tree.open(node) as file:
            # as the package manager keeps them; nothing is trusted because of it
            found = hashlib.new(wanted.algorithm, usedforsecurity=False)
            while data := file.read(1 << 20):
                found.update(data)
        return found.hexdigest().startswith(wanted.digest)

    def is_library_intact(self, name: str, path: str) -> bool:
        """Whether the file that `path` leads to is a library of the package, and still that."""
        real = self._real(path)
        names = (one for one in self.files(name) if ".so" in one and self._real(one) == real)
        return any(self.is_intact(name, one) for one in names)  # links have no digest

    def _real(self, path: str) -> str:
        try:
            return self.tree.resolve(path)
        except PathNotFound:
            return path


def _database(tree: TreeView) -> Database:
    from anyarch.emulation.accelerate.apk import Apk
    from anyarch.emulation.accelerate.dpkg import Dpkg

    def read(path: str) -> bytes:
        return _read(tree, path)

    dpkg = Dpkg(read)
    if dpkg.installed:
        return dpkg
    apk = Apk(read)
    return apk if apk.installed else dpkg


def _read(tree: TreeView, path: str) -> bytes:
    try:
        node = tree.lookup(posixpath.normpath(tree.resolve(path)))
        if node is None or node.entry.kind not in (Kind.FILE, Kind.HARDLINK):
            return b""
        with tree.open(node) as file:
            return file.read()
    except PathNotFound:
        return b""
