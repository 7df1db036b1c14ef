"""Digests of the files of a build context, kept between builds, so that an unchanged file is not read again.

A file is unchanged when device, inode, size, modification and change time are. A file touched less than
two seconds before its tree was scanned is not remembered: it could be changed again without its times
telling (what git calls racily clean). One file in the store's `stat/` for each context directory, replaced
as a whole; losing it costs time only.
"""

from __future__ import annotations

import hashlib
import os
import struct
from typing import TYPE_CHECKING

from anyarch.store.failure import disk_errors

if TYPE_CHECKING:
    from anyarch.store.store import Store

__all__ = ["RACY_NS", "StatCache", "fingerprint"]

RACY_NS = 2_000_000_000

_MAGIC = b"anyarch stat 1\n\0"
_HEADER = struct.Struct("<16sI")
_FINGERPRINT = struct.Struct("<QQqqq")
_RECORD = _FINGERPRINT.size + 32
_MAX_PATHS = 500_000


def fingerprint(found: os.stat_result) -> bytes:
    """What tells that a file was not touched."""
    return _FINGERPRINT.pack(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


class StatCache:
    """The remembered digests below one directory. `records` maps a path to its fingerprint followed by its
    digest."""

    def __init__(self, store: Store, root: str) -> None:
        self._store = store
        name = hashlib.sha256(os.fsencode(os.path.realpath(root))).hexdigest()
        self._path = f"{store.root}/stat/{name}"
        self.records = self._load()

    def _load(self) -> dict[str, bytes]:
        try:
            with open(self._path, "rb", buffering=0) as file:
                raw = file.read()
        except FileNotFoundError:
            return {}
        try:
            magic, count = _HEADER.unpack_from(raw)
        except struct.error:
            return {}
        end = _HEADER.size + count * _RECORD
        paths = raw[end:].decode("utf-8", "surrogateescape").split("\0") if count else []
        if magic != _MAGIC or len(paths) != count:
            return {}  # another format, or cut short by a crash
        starts = range(_HEADER.size, end, _RECORD)
        return dict(zip(paths, [raw[start : start + _RECORD] for start in starts], strict=True))

    def save(self, new: dict[str, bytes]) -> None:
        """Remember `new` records too. What is known of files that were not looked at stays: another
        Dockerfile may leave out other files of the same context."""
        self.records.update(new)
        if len(self.records) > _MAX_PATHS:
            self.records = dict(new)
        unfinished = self._store.unfinished_file()
        with disk_errors(self._path):
            with open(unfinished, "xb", buffering=0) as file:
                file.write(
                    _HEADER.pack(_MAGIC, len(self.records))
                    + b"".join(self.records.values())
                    + "\0".join(self.records).encode("utf-8", "surrogateescape")
                )
            os.rename(unfinished, self._path)
