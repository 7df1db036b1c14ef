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
_LARGE = 64 << 10  # bytes; below, opening and the interpreter's lock cost more than threads win
_WORTH_THREADS = 4 << 20  # bytes


def hash_files(entries: Sequence[Entry], open_content: Callable[[Entry], Content]) -> dict[str, bytes]:
    """sha256 (32 bytes) of the content of each entry, by path. Errors of opening and reading come through."""
    large = [entry for entry in entries if entry.size >= _LARGE]
    workers = min(4, os.cpu_count() or 1)
    if workers == 1 or len(large) < 2 or sum(entry.size for entry in large) < _WORTH_THREADS:
        return _hash_some(entries, open_content)
    from concurrent.futures import ThreadPoolExecutor

    # Largest first, so that no thread is left with a big one at the end.
    large.sort(key=lambda one: -one.size)
    with ThreadPoolExecutor(workers) as pool:
        portions = pool.map(lambda one: _hash_some((one,), open_content), large)
        digests = _hash_some([entry for entry in entries if entry.size < _LARGE], open_content)
        for some in portions:
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
