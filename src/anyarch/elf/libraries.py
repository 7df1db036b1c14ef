"""Which shared libraries a program needs that an image does not hold, those of its libraries included. Pure:
the image is seen through `anyarch.elf.findings.Files`.

The loader reads the names a file needs, then those of each library it found (ld.so(8)). A library that lies
where only a start script could point is not looked into.
"""

from __future__ import annotations

import posixpath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from anyarch.elf.binary import Binary
    from anyarch.elf.findings import Files

__all__ = ["Libraries"]

_DIRECTORIES = ("/lib", "/usr/lib", "/lib64", "/usr/lib64", "/usr/local/lib", "/usr/local/lib64")
_SOMEWHERE = ""


class Libraries:
    """Of one image; each library is looked for and read once, however many programs need it."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self._directories: tuple[str, ...] | None = None
        self._paths: dict[str, str | None] = {}  # of names that no file has a search path for
        self._needs: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {}

    def lacking(self, path: str, binary: Binary) -> list[tuple[str, str]]:
        """The names that are nowhere in the image, each with the path of the library that needs it (empty:
        the program itself does). Raises what `Files` does."""
        missing, pending = self._resolve(path, binary)
        found = [(name, "") for name in missing]
        seen = set(pending)
        queue = list(pending)
        for library in queue:  # grows meanwhile
            missing, more = self._needs_of(library)
            found += [(name, library) for name in missing]
            for each in more:
                if each not in seen:
                    seen.add(each)
                    queue.append(each)
        return found

    def _needs_of(self, path: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        kept = self._needs.get(path)
        if kept is None:
            binary = self._files.library(path)
            kept = self._needs[path] = self._resolve(path, binary) if binary is not None else ((), ())
        return kept

    def _resolve(self, path: str, binary: Binary) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The needed names that are nowhere, and the paths of those the loader finds."""
        missing: list[str] = []
        paths: list[str] = []
        for name in binary.needed:
            found = self._find(name, path, binary.search)
            if found is None:
                missing.append(name)
            elif found != _SOMEWHERE:
                paths.append(found)
        return tuple(missing), tuple(paths)

    def _find(self, name: str, path: str, search: tuple[str, ...]) -> str | None:
        if "/" in name:
            named = posixpath.join("/", name)
            return named if self._files.exists(named) else None
        if search:
            origin = posixpath.dirname(path)
            for entry in search:
                directory = entry.replace("${ORIGIN}", origin).replace("$ORIGIN", origin)
                candidate = posixpath.join("/", directory, name)
                if self._files.exists(candidate):
                    return candidate
        if name not in self._paths:
            self._paths[name] = self._find_usual(name)
        return self._paths[name]

    def _find_usual(self, name: str) -> str | None:
        if self._directories is None:
            self._directories = (*self._files.library_directories(), *_DIRECTORIES)
        for directory in self._directories:
            candidate = posixpath.join("/", directory, name)
            if self._files.exists(candidate):
                return candidate
        # A start script may say where it is: what lies anywhere in the image is not called missing.
        return _SOMEWHERE if self._files.named(name) else None
