"""What dpkg knows of a tree: packages, their versions, files and digests (deb-control(5), dpkg(1))."""

from __future__ import annotations

import posixpath
import re
from typing import TYPE_CHECKING

import msgspec

from anyarch.archive.entry import Kind
from anyarch.errors import PathNotFound

if TYPE_CHECKING:
    from anyarch.snapshot.view import TreeView

__all__ = ["Package", "Packages", "is_same_source"]

_DPKG = "var/lib/dpkg"
_REBUILT = re.compile(r"\+b[0-9]+$")


class Package(msgspec.Struct, frozen=True):
    """An installed package."""

    name: str
    version: str
    architecture: str


def is_same_source(version: str, other: str) -> bool:
    """Whether two versions of a package are of the same source: `+bN` counts how often a distribution has
    built it anew on one architecture, from the same files (Debian Policy 5.6.12)."""
    return bool(version) and _REBUILT.sub("", version) == _REBUILT.sub("", other)


class Packages:
    """The packages of a tree; without dpkg's database there are none."""

    def __init__(self, tree: TreeView) -> None:
        self.tree = tree
        self.installed = _installed(_read(tree, f"{_DPKG}/status"))
        self._owners: dict[str, str] | None = None
        self._digests: dict[str, dict[str, str]] = {}

    def version(self, name: str) -> str:
        """Empty when it is not installed."""
        package = self.installed.get(name)
        return package.version if package is not None else ""

    def files(self, name: str) -> list[str]:
        """Paths as the package has them, without leading slash."""
        lines = self._info(name, "list").decode("utf-8", "surrogateescape").splitlines()
        return [line.lstrip("/") for line in lines if line not in ("", "/.")]

    def digest(self, name: str, path: str) -> str:
        """The md5 (hexadecimal) that a file of the package had when it was made; empty when not known."""
        known = self._digests.get(name)
        if known is None:
            lines = self._info(name, "md5sums").decode("utf-8", "surrogateescape").splitlines()
            pairs = (line.split("  ", 1) for line in lines if "  " in line)
            known = self._digests[name] = {path: digest for digest, path in pairs}
        return known.get(path, "")

    def owner(self, path: str) -> str:
        """The package of the file that `path` leads to; empty when there is none."""
        if self._owners is None:
            self._owners = {}
            for name in self.installed:
                for each in self.files(name):
                    if ".so" in each:  # the owners of libraries are asked for
                        self._owners[self._real(each)] = name
        return self._owners.get(self._real(path), "")

    def is_intact(self, name: str, path: str) -> bool:
        """Whether the file is still the package's."""
        import hashlib

        wanted = self.digest(name, path)
        node = self.tree.lookup(self._real(path))
        if not wanted or node is None or node.entry.kind not in (Kind.FILE, Kind.HARDLINK):
            return False
        with self.tree.open(node) as file:
            # as dpkg keeps them; nothing is trusted because of it
            found = hashlib.md5(usedforsecurity=False)
            while data := file.read(1 << 20):
                found.update(data)
        return found.hexdigest() == wanted

    def _real(self, path: str) -> str:
        try:
            return self.tree.resolve(path)
        except PathNotFound:
            return path

    def _info(self, name: str, kind: str) -> bytes:
        package = self.installed.get(name)
        if package is None:
            return b""
        for stem in (name, f"{name}:{package.architecture}"):
            raw = _read(self.tree, f"{_DPKG}/info/{stem}.{kind}")
            if raw:
                return raw
        return b""


def _installed(status: bytes) -> dict[str, Package]:
    found = {}
    for paragraph in status.decode("utf-8", "replace").split("\n\n"):
        fields = {}
        for line in paragraph.splitlines():
            name, mark, value = line.partition(":")
            if mark and not line[:1].isspace():
                fields[name] = value.strip()
        if fields.get("Status", "").endswith(" installed") and "Package" in fields:
            name = fields["Package"]
            found[name] = Package(name, fields.get("Version", ""), fields.get("Architecture", ""))
    return found


def _read(tree: TreeView, path: str) -> bytes:
    try:
        node = tree.lookup(posixpath.normpath(tree.resolve(path)))
        if node is None or node.entry.kind not in (Kind.FILE, Kind.HARDLINK):
            return b""
        with tree.open(node) as file:
            return file.read()
    except PathNotFound:
        return b""
