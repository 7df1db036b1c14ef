"""Digests of many files, read in several threads where that pays."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Protocol

    from anyarch.archive.entry import Entry

    class Content(Protocol):
        def read(self, size: int = -1, /) -> bytes: ...

        def close(self) -> None: ...


__all__ = ["hash_files"]

_CHUNK = 1 << 20
_WORTH_THREADS = 4 << 20  # bytes


def hash_files(entries: Sequence[Entry], open_content: Callable[[Entry], Content]) -> dict[str, bytes]:
    """sha256 (32 bytes) of the content of each entry, by path. Errors of `open_content` and reading come
    through."""
    workers = min(4, os.cpu_count() or 1)
    if workers == 1 or len(entries) < 2 or sum(entry.size for entry in entries) < _WORTH_THREADS:
        return _hash_some(entries, open_content)
    from concurrent.futures import ThreadPoolExecutor

    # Portions of about equal bytes, so that one thread does not end up with all large files.
    portions: list[list[Entry]] = [[] for _ in range(workers)]
    loads = [0] * workers
    for entry in sorted(entries, key=lambda one: -one.size):
        least = loads.index(min(loads))
        portions[least].append(entry)
        loads[least] += entry.size + 4096  # opening costs about as much as reading that
    digests: dict[str, bytes] = {}
    with ThreadPoolExecutor(workers) as pool:
        for some in pool.map(lambda portion: _hash_some(portion, open_content), portions):
            digests.update(some)
    return digests


def _hash_some(entries: Sequence[Entry], open_content: Callable[[Entry], Content]) -> dict[str, bytes]:
    digests = {}
    for entry in entries:
        content = open_content(entry)
        try:
            if entry.size <= _CHUNK:
                digest = hashlib.sha256(content.read())
            else:
                digest = hashlib.sha256()
                while data := content.read(_CHUNK):
                    digest.update(data)
        finally:
            content.close()
        digests[entry.path] = digest.digest()
    return digests
