"""The hard cap on what a store takes of the disk (`[gc] cap`), kept while a build runs."""

from __future__ import annotations

import fcntl
import os
import struct
import threading
from typing import TYPE_CHECKING

from anyarch.errors import NoSpace
from anyarch.store.failure import disk_errors
from anyarch.store.policy import Disk, Policy, Settings

if TYPE_CHECKING:
    from anyarch.store.store import Store

__all__ = ["Cap"]


_TOTAL = struct.Struct("<Q")


class Cap:
    """Counts what is added and makes room when the cap is passed. Thread-safe. No cap: nothing is counted.

    What all processes have added is counted in the file `grown`, so that several that build at once keep to
    the cap together: what is there now is what was there when it was last measured and what came since.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._cap = Settings.load(Disk.of(store.root)).cap
        self._used = -1
        self._at = 0  # of the count when that was measured

    def grew(self, size: int, *, is_there: bool = True) -> None:
        """Something of `size` bytes was added, or is about to be. Takes what no living process uses when that
        is too much; `NoSpace` when there is not enough of it."""
        if not self._cap:
            return
        coming = 0 if is_there else size
        with self._lock:
            total = self._count(size)
            if self._used < 0:
                self._measure(coming)
            if self._used + total - self._at <= self._cap:
                return
            from anyarch.store.collect import collect

            # A little more than needed, so that not every further file collects again.
            room = max(1, self._cap * 9 // 10 - coming)
            collect(self._store, (Policy(all=True, max_used=room),), keep_own=True)
            self._measure(coming)
            if self._used + coming > self._cap:
                raise NoSpace(
                    f"the store at {self._store.root} would pass its cap of {self._cap} bytes",
                    hint="what running builds use cannot be removed; raise cap under [gc] in config.toml",
                )

    def _measure(self, coming: int) -> None:
        """What is there; `coming` is counted already and not there yet."""
        from anyarch.store.usage import records_of

        self._at = self._count(0) - coming  # before: what comes meanwhile counts twice rather than not at all
        self._used = sum(record.size for record in records_of(self._store))

    def _count(self, size: int) -> int:
        """Add to what all processes have added; answers that."""
        path = f"{self._store.root}/grown"
        with disk_errors(path):
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX)
                known = os.pread(fd, _TOTAL.size, 0)
                total = size + (_TOTAL.unpack(known)[0] if len(known) == _TOTAL.size else 0)
                if size:
                    os.pwrite(fd, _TOTAL.pack(total), 0)
            finally:
                os.close(fd)
        return total
