"""Digests of the files of a build context, kept between builds, so that an unchanged file is not read again.

A file is unchanged when device, inode, size, modification and change time are. A file touched less than
two seconds before its tree was scanned is not remembered: it could be changed again without its times
telling (what git calls racily clean). Content digests of directories are kept beside, for a tree in which
nothing at all is different. One file in the store's `stat/` for each context directory, replaced as a whole
or added to at its end; losing it costs time only.
"""

from __future__ import annotations

import hashlib
import os
import struct
from typing import TYPE_CHECKING

from anyarch.store.failure import disk_errors

if TYPE_CHECKING:
    from collections.abc import Iterable

    from anyarch.store.store import Store

__all__ = ["RACY_NS", "StatCache", "fingerprint", "newest"]

RACY_NS = 2_000_000_000

_MAGIC = b"anyarch stat 2\n\0"
_HEADER = struct.Struct("<16sII")  # magic, number of records, bytes of the paths
_FINGERPRINT = struct.Struct("<QQqqq")
_RECORD = _FINGERPRINT.size + 32
_TIMES = struct.Struct("<24xqq")
_TREE = struct.Struct("<32s32sI")  # state of the whole tree, digest of a directory in it, bytes of its path
_MAX_PATHS = 500_000
_MAX_TREES = 64

fingerprint = _FINGERPRINT.pack
"""What tells that a file was not touched: of device, inode, size, modification and change time in
nanoseconds."""


def newest(marks: Iterable[bytes]) -> int:
    """The latest of the modification and change times in fingerprints, in nanoseconds."""
    return max((max(times) for times in _TIMES.iter_unpack(b"".join(marks))), default=0)


class StatCache:
    """What is remembered of one directory. `records` maps a path to its fingerprint followed by its digest;
    `trees` maps a state (32 bytes) of the whole tree and a path to the digest of what is there."""

    def __init__(self, store: Store, root: str) -> None:
        self._store = store
        name = hashlib.sha256(os.fsencode(os.path.realpath(root))).hexdigest()
        self._path = f"{store.root}/stat/{name}"
        self.records: dict[str, bytes] = {}
        self.trees: dict[tuple[bytes, str], bytes] = {}
        self._load()

    def _load(self) -> None:
        try:
            with open(self._path, "rb", buffering=0) as file:
                raw = file.read()
        except FileNotFoundError:
            return
        try:
            magic, count, length = _HEADER.unpack_from(raw)
        except struct.error:
            return
        end = _HEADER.size + count * _RECORD
        paths = raw[end : end + length].decode("utf-8", "surrogateescape").split("\0") if count else []
        if magic != _MAGIC or len(paths) != count or len(raw) < end + length:
            return  # another format, or cut short by a crash
        starts = range(_HEADER.size, end, _RECORD)
        self.records = dict(zip(paths, [raw[start : start + _RECORD] for start in starts], strict=True))
        position = end + length
        while position + _TREE.size <= len(raw):
            state, digest, size = _TREE.unpack_from(raw, position)
            position += _TREE.size
            path = raw[position : position + size]
            position += size
            if len(path) == size:
                self.trees[state, path.decode("utf-8", "surrogateescape")] = digest

    def save(self, new: dict[str, bytes]) -> None:
        """Remember `new` records too. What is known of files that were not looked at stays: another
        Dockerfile may leave out other files of the same context."""
        self.records.update(new)
        if len(self.records) > _MAX_PATHS:
            self.records = dict(new)
        paths = "\0".join(self.records).encode("utf-8", "surrogateescape")
        unfinished = self._store.unfinished_file()
        with disk_errors(self._path):
            with open(unfinished, "xb", buffering=0) as file:
                file.write(
                    b"".join(
                        (
                            _HEADER.pack(_MAGIC, len(self.records), len(paths)),
                            *self.records.values(),
                            paths,
                            *(_packed(*key, digest) for key, digest in self.trees.items()),
                        )
                    )
                )
            os.rename(unfinished, self._path)

    def save_tree(self, state: bytes, path: str, digest: bytes) -> None:
        """Remember the digest of what is at `path` in a tree whose state is `state`."""
        self.trees[state, path] = digest
        if len(self.trees) > _MAX_TREES:
            self.trees = {(state, path): digest}
            self.save({})
            return
        try:
            fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        except FileNotFoundError:
            return  # a tree without files, which is digested quickly; or pruned meanwhile
        try:
            with disk_errors(self._path):
                os.write(fd, _packed(state, path, digest))
        finally:
            os.close(fd)


def _packed(state: bytes, path: str, digest: bytes) -> bytes:
    raw = path.encode("utf-8", "surrogateescape")
    return _TREE.pack(state, digest, len(raw)) + raw
