"""The hard cap on what a store takes of the disk (`[gc] cap`), kept while a build runs."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from anyarch.errors import NoSpace
from anyarch.store.policy import Disk, Policy, Settings

if TYPE_CHECKING:
    from anyarch.store.store import Store

__all__ = ["Cap"]


class Cap:
    """Counts what is added and makes room when the cap is passed. Thread-safe. No cap: nothing is counted."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._cap = Settings.load(Disk.of(store.root)).cap
        self._used = -1

    def grew(self, size: int) -> None:
        """Something of `size` bytes was added. Takes what no living process uses when that is too much;
        `NoSpace` when there is not enough of it."""
        if not self._cap:
            return
        with self._lock:
            self._used = self._measure() if self._used < 0 else self._used + size
            if self._used <= self._cap:
                return
            from anyarch.store.collect import collect

            # A little more than needed, so that not every further file collects again.
            collect(self._store, (Policy(all=True, max_used=self._cap * 9 // 10),), keep_own=True)
            self._used = self._measure()
            if self._used > self._cap:
                raise NoSpace(
                    f"the store at {self._store.root} would pass its cap of {self._cap} bytes",
                    hint="what running builds use cannot be removed; raise cap under [gc] in config.toml",
                )

    def _measure(self) -> int:
        from anyarch.store.usage import records_of

        return sum(record.size for record in records_of(self._store))
