"""What the solver keeps between builds: links between cache keys, results, and small memos.

A key is linked to a canonical key; the canonical key has the results. So any number of keys (by
definition, by content) lead to one result. Times of use are collected in memory and written when the store
is closed, and only those that are an hour out of date: a fully cached build writes nothing here.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from anyarch.store.metadata import Metadata

__all__ = ["STALE_S", "CacheRecords", "HasLayers", "SavedResult"]

STALE_S = 3600.0
"""How far times of use may be out of date, in seconds."""

_CANONICAL = "SELECT canonical FROM cache_keys WHERE key = ?"
# The third column is how many of the named layers are gone.
_LOAD = """SELECT r.layers, r.description, r.created_at, r.last_used,
    (SELECT count(*) FROM json_each(r.layers) WHERE value NOT IN (SELECT id FROM layers))
    FROM cache_results r WHERE r.canonical = ? AND r.output = ?"""
_GONE = "SELECT count(*) FROM json_each(?) WHERE value NOT IN (SELECT id FROM layers)"
_HAS = """SELECT last_used FROM cache_results INDEXED BY cache_results_used
    WHERE canonical = ? AND output = 0"""
_VALUE = "SELECT value, last_used FROM memo WHERE namespace = ? AND key = ?"


class HasLayers(Protocol):
    """A snapshot, as far as the store is concerned: ids of its layers, lowest first."""

    @property
    def layers(self) -> tuple[str, ...]: ...


class SavedResult(msgspec.Struct, frozen=True):
    """One output of a vertex. `layers` are layer ids, lowest first; None: the vertex has no such output.
    `created_at` is in seconds since the epoch."""

    layers: tuple[str, ...] | None
    description: str
    created_at: float


class CacheRecords:
    """Thread-safe; raises `StoreError` only. `hold(layer)` marks a layer as used from now on and answers
    whether it was not before (see `leases`)."""

    def __init__(self, meta: Metadata, *, hold: Callable[[str], bool] = lambda layer: False) -> None:
        self._meta = meta
        self._hold = hold
        self._now = time.time()
        self._used_results: set[tuple[str, int]] = set()
        self._used_values: set[tuple[str, str]] = set()

    def canonical(self, key: str) -> str | None:
        """The canonical key that `key` was linked to."""
        row = self._meta.one(_CANONICAL, (key,))
        return row[0] if row else None

    def link(self, key: str, canonical: str) -> None:
        """From now on `key` leads to `canonical`."""
        with self._meta.transaction() as database:
            database.execute("INSERT OR REPLACE INTO cache_keys VALUES (?, ?)", (key, canonical))

    def has(self, canonical: str) -> bool:
        """Whether results were saved, and not collected since; counts as a use."""
        row = self._meta.one(_HAS, (canonical,))
        if row is None:
            return False
        if row[0] < self._now - STALE_S:
            self._used_results.add((canonical, 0))
        return True

    def load(self, canonical: str, output: int) -> SavedResult | None:
        """None when nothing was saved, or when one of its layers is gone."""
        row = self._meta.one(_LOAD, (canonical, output))
        if row is None:
            return None
        layers, description, created_at, last_used, gone = row
        if gone:
            return None
        ids = None if layers is None else msgspec.json.decode(layers, type=tuple[str, ...])
        # A collection may have taken some between the question and the mark.
        newly_held = [self._hold(layer) for layer in ids or ()]
        if any(newly_held) and self._meta.query(_GONE, (layers,))[0][0]:
            return None
        if last_used < self._now - STALE_S:
            self._used_results.add((canonical, output))
        return SavedResult(ids, description, created_at)

    def save(
        self,
        canonical: str,
        outputs: Sequence[HasLayers | None],
        *,
        description: str = "",
        created_at: float | None = None,
    ) -> None:
        """Replace what is known of `canonical`, all outputs in one transaction. From now on it is linked to
        itself, also when the results go."""
        now = time.time()
        born = now if created_at is None else created_at
        rows = [
            (
                canonical,
                number,
                None if one is None else msgspec.json.encode([str(layer) for layer in one.layers]).decode(),
                description,
                born,
                now,
            )
            for number, one in enumerate(outputs)
        ]
        with self._meta.transaction() as database:
            database.execute("DELETE FROM cache_results WHERE canonical = ?", (canonical,))
            database.executemany("INSERT INTO cache_results VALUES (?, ?, ?, ?, ?, ?)", rows)
            database.execute("INSERT OR REPLACE INTO cache_keys VALUES (?, ?)", (canonical, canonical))

    def forget(self, canonical: str) -> None:
        """Drop the results of `canonical` (links to it stay: they lead to nothing, or to the next result)."""
        with self._meta.transaction() as database:
            database.execute("DELETE FROM cache_results WHERE canonical = ?", (canonical,))

    def get_value(self, namespace: str, key: str) -> bytes | None:
        """A memo: what `set_value` kept. A hint that may be gone at any time, never the only copy of
        something."""
        row = self._meta.one(_VALUE, (namespace, key))
        if row is None:
            return None
        if row[1] < self._now - STALE_S:
            self._used_values.add((namespace, key))
        return bytes(row[0])

    def set_value(self, namespace: str, key: str, value: bytes) -> None:
        with self._meta.transaction() as database:
            database.execute(
                "INSERT OR REPLACE INTO memo VALUES (?, ?, ?, ?)", (namespace, key, value, time.time())
            )

    def delete_value(self, namespace: str, key: str) -> None:
        with self._meta.transaction() as database:
            database.execute("DELETE FROM memo WHERE namespace = ? AND key = ?", (namespace, key))

    def flush(self) -> None:
        """Write the times of use collected so far."""
        results, self._used_results = self._used_results, set()
        values, self._used_values = self._used_values, set()
        if not results and not values:
            return
        now = time.time()
        with self._meta.transaction() as database:
            database.executemany(
                "UPDATE cache_results SET last_used = ? WHERE canonical = ? AND output = ?",
                [(now, *key) for key in sorted(results)],
            )
            database.executemany(
                "UPDATE memo SET last_used = ? WHERE namespace = ? AND key = ?",
                [(now, *key) for key in sorted(values)],
            )
