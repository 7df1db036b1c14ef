"""Whether a step gives the same files with native twins as without, for `--accelerate=verify`.

Contents, kinds, modes, owners, links and attributes are compared, times are not: they differ between any two
runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from anyarch.archive.entry import Kind
from anyarch.worker.result import SnapshotResult

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anyarch.archive.entry import Entry
    from anyarch.snapshot.index import LayerIndex
    from anyarch.worker.result import Result
    from anyarch.worker.worker import Worker

__all__ = ["Difference", "differences"]

_CAUSES = (
    ("var/log/", "logs tell times"),
    ("var/cache/ldconfig/", "the linker's cache tells inodes and times of files"),
    (".pyc", "compiled Python tells the time of its source"),
    (".gz", "gzip writes the time of what it packs unless it is told not to"),
    (".a", "archives tell times unless made with ar D"),
    (".tar", "archives tell times"),
)
_OTHERWISE = (
    "a time, a random name or the order of parallel work, if not a twin: build it twice with off to tell"
)


class Difference(msgspec.Struct, frozen=True):
    """A path that is not the same, what about it, and what the likely cause is."""

    path: str
    what: str
    cause: str


def differences(worker: Worker, plain: Sequence[Result], fast: Sequence[Result]) -> list[Difference]:
    """Between the outputs of the same step, run emulated and accelerated; sorted by path."""
    found = []
    for one, other in zip(plain, fast, strict=True):
        own, its = (_last(result) for result in (one, other))
        if own != its:
            found += _between(worker, own, its)
    return sorted(found, key=lambda difference: difference.path)


def _last(result: Result) -> str:
    return result.layers[-1] if isinstance(result, SnapshotResult) and result.layers else ""


def _between(worker: Worker, plain: str, fast: str) -> list[Difference]:
    indexes = [worker.layers.index(worker.layer(layer)) if layer else None for layer in (plain, fast)]
    entries = [_entries(index) for index in indexes]
    digests = [
        worker.layers.file_digests(
            worker.layer(layer), [entry for entry in each.values() if entry.kind is Kind.FILE]
        )
        if layer
        else {}
        for layer, each in zip((plain, fast), entries, strict=True)
    ]
    found = []
    for path in sorted(entries[0].keys() | entries[1].keys()):
        own, its = (each.get(path) for each in entries)
        if own is None or its is None:
            what = "it is there only when accelerated" if own is None else "it is there only when emulated"
        else:
            what = _what(own, its, *(each.get(path, b"") for each in digests))
        if what:
            found.append(Difference(path, what, _cause(path)))
    return found


def _entries(index: LayerIndex | None) -> dict[str, Entry]:
    return {entry.path: entry for entry in index.below("")} if index is not None else {}


def _what(own: Entry, its: Entry, content: bytes, other: bytes) -> str:
    names = [
        name
        for name in ("kind", "mode", "uid", "gid", "linkname", "major", "minor", "xattrs", "opaque")
        if getattr(own, name) != getattr(its, name)
    ]
    if content != other:
        names.append("content")
    return ", ".join(names)


def _cause(path: str) -> str:
    return next(
        (cause for mark, cause in _CAUSES if path.startswith(mark) or path.endswith(mark)), _OTHERWISE
    )
