"""The libraries that a root's own programs load: a twin has those of the native image, so they have to be as
their packages brought them, with no others in front."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from anyarch.archive.entry import Kind
from anyarch.emulation.accelerate.dispatcher import PAGE
from anyarch.emulation.accelerate.packages import names
from anyarch.emulation.accelerate.selection import TARGETS
from anyarch.errors import NotSupported, PathNotFound

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anyarch.emulation.accelerate.packages import Packages

__all__ = ["Libraries"]

_LOCAL = ("usr/local/lib",)
_SETTINGS, _MOST_SETTINGS = "etc/ld.so.conf.d", 1 << 16


class Libraries:
    """Of a root of some architecture."""

    def __init__(self, root: Packages, architecture: str) -> None:
        self._root = root
        multiarch = TARGETS[architecture].multiarch
        self._usual = tuple(f"{top}{end}" for end in (f"/{multiarch}", "") for top in ("lib", "usr/lib"))
        local = (f"{_LOCAL[0]}/{multiarch}", *_LOCAL)
        named = (line for line in self._settings() if line not in self._usual)
        self._first = tuple(dict.fromkeys((*local, *named)))
        self._checked: dict[tuple[str, str], str] = {}

    def check(self, soname: str, owner: str) -> None:
        """Raises `NotSupported` when the root's programs do not load what `owner` brought as `soname`."""
        key = (soname, owner)
        if key not in self._checked:
            self._checked[key] = self._reason(soname, owner)
        if self._checked[key]:
            raise NotSupported(self._checked[key])

    def state(self) -> list[tuple[str, str, int, int, str]]:
        """All that the answers depend on, but for the packages: which libraries there are, by what leads to
        them, size, time and first page (which has the linker's digest of the rest)."""
        tree = self._root.tree
        found = []
        pages: dict[str, str] = {}
        for directory in (*self._first, *self._usual):
            for name in names(tree, directory):
                if ".so" not in name:
                    continue
                try:
                    real = tree.resolve(f"{directory}/{name}")
                except PathNotFound:
                    continue
                node = tree.lookup(real)
                if node is None or node.entry.kind not in (Kind.FILE, Kind.HARDLINK):
                    continue
                if real not in pages:
                    with tree.open(node) as file:
                        pages[real] = hashlib.sha256(file.read(PAGE)).hexdigest()
                entry = tree.target(node).entry
                found.append((f"{directory}/{name}", real, entry.size, entry.mtime_ns, pages[real]))
        return found

    def _reason(self, soname: str, owner: str) -> str:
        first = next((one for one in self._first if self._exists(f"{one}/{soname}")), None)
        if first is not None:
            return f"it needs {soname}, and there is one in /{first}"
        for directory in self._usual:
            path = f"{directory}/{soname}"
            if self._exists(path):
                intact = self._root.is_library_intact(owner, path)
                return "" if intact else f"it needs {soname}, and /{path} is not as its package brought it"
        return f"it needs {soname}, which this image does not have"

    def _exists(self, path: str) -> bool:
        try:
            return self._root.tree.lookup(self._root.tree.resolve(path)) is not None
        except PathNotFound:
            return False

    def _settings(self) -> Iterator[str]:
        tree = self._root.tree
        for name in names(tree, _SETTINGS):
            if not name.endswith(".conf"):
                continue
            try:
                node = tree.lookup(tree.resolve(f"{_SETTINGS}/{name}"))
            except PathNotFound:
                continue
            if node is None or node.entry.size > _MOST_SETTINGS:
                continue
            with tree.open(node) as file:
                for line in file.read().decode("utf-8", "replace").splitlines():
                    if line.startswith("/"):
                        yield line.strip().strip("/")
