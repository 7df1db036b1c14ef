"""Leases: what a process uses is not taken by a collection that runs at the same time in any process.

Every layer and blob that a process touches is marked in its lock file (`locks/<token>`, see `liveness`)
*before* it is looked for. A collection reads the marks of all processes that live and takes names away
(rows, files) while it holds `collect.lock`; a new mark waits for that. So a mark is either seen by the
collection, or made when all that goes has gone, and who made it finds nothing and makes the thing anew.

The marks are a bit map, written a byte at a time: about three microseconds for each new thing, nothing for
one that was touched before, no transaction. Two things may share a bit; then one is kept for longer than
needed. The kernel frees the lock of a process that dies, and with it what it held.
"""

from __future__ import annotations

import fcntl
import os
import threading
from binascii import crc32
from contextlib import contextmanager
from typing import TYPE_CHECKING

from anyarch.store.failure import disk_errors

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from anyarch.store.liveness import Liveness

__all__ = ["Leases", "Marks", "collecting"]

_BYTES = 1 << 16  # half a million bits: with 5,000 things in use one in a hundred others is kept in vain


def _slot(key: str) -> tuple[int, int]:
    value = crc32(key.encode("utf-8", "surrogateescape"))
    return (value >> 3) % _BYTES, 1 << (value & 7)


@contextmanager
def collecting(root: Path, *, wait: bool = True) -> Iterator[bool]:
    """Be the only one that takes things away from the store at `root`; False, without `wait`, when somebody
    is at it."""
    with disk_errors(root):
        fd = os.open(f"{root}/collect.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(fd)


class Leases:
    """What this process uses. Thread-safe."""

    def __init__(self, root: Path, liveness: Liveness) -> None:
        self._root = root
        self._marks_fd = liveness.fd
        self._gate_fd = -1
        self._bits = bytearray(_BYTES)
        self._held: set[str] = set()
        self._lock = threading.Lock()
        self.stops_collections = False
        """Whether there was no room for a mark: then nobody collects while we live, ourselves included."""

    def hold(self, key: str) -> bool:
        """Mark a layer (its id) or a blob (its digest) as used until the store is closed; True when it was
        not before. To be called before looking whether it is there, and outside of a transaction: it may
        wait for a collection."""
        if key in self._held:
            return False
        offset, bit = _slot(key)
        with self._lock:
            if not self._bits[offset] & bit:
                self._mark(offset, bit)
            self._held.add(key)
        return True

    def _mark(self, offset: int, bit: int) -> None:
        self._bits[offset] |= bit
        if self.stops_collections:
            return
        if self._gate_fd < 0:
            with disk_errors(self._root):
                self._gate_fd = os.open(
                    f"{self._root}/collect.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644
                )
        fcntl.flock(self._gate_fd, fcntl.LOCK_SH)
        try:
            os.pwrite(self._marks_fd, self._bits[offset : offset + 1], offset)
        except OSError:
            # Without room for a mark nothing may be collected while we live: the gate stays locked.
            self.stops_collections = True
        else:
            fcntl.flock(self._gate_fd, fcntl.LOCK_UN)

    def held(self) -> list[str]:
        """All that was marked, sorted."""
        with self._lock:
            return sorted(map(str, self._held))

    def close(self) -> None:
        """Forget all; the marks go with the lock file."""
        with self._lock:
            self._held = set()
            if self._gate_fd >= 0:
                os.close(self._gate_fd)
                self._gate_fd = -1


class Marks:
    """What the living processes use, as it was when this was made. `but` is a token left out."""

    def __init__(self, liveness: Liveness, *, but: str = "") -> None:
        self._bits = bytearray(_BYTES)
        for fd in liveness.living(but):
            try:
                marks = os.pread(fd, _BYTES, 0)
            finally:
                os.close(fd)
            together = int.from_bytes(self._bits, "little") | int.from_bytes(marks, "little")
            self._bits = bytearray(together.to_bytes(_BYTES, "little"))

    def __contains__(self, key: object) -> bool:
        offset, bit = _slot(str(key))
        return bool(self._bits[offset] & bit)
