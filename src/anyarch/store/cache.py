"""What the solver keeps between builds: links between cache keys, results, and small memos.

A key is linked to a canonical key; the canonical key has the results. So any number of keys (by
definition, by content) lead to one result. A result is a chain of layers, and a row of `chains` is one layer
on the chain below it: of thousands of results that lie on one another each takes one row. Times of use are
collected in memory and written when the store is closed, together with what of layers and blobs was used, and
only those that are an hour out of date.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import msgspec

from anyarch.spec.snapshot import Snapshot

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Sequence

    from anyarch.store.metadata import Metadata

__all__ = ["STALE_S", "CacheRecords", "SavedResult"]

STALE_S = 3600.0
"""How far times of use may be out of date, in seconds."""

_CANONICAL = "SELECT canonical FROM cache_keys WHERE key = ?"
_LOAD = """SELECT chain, description, created_at, last_used FROM cache_results
    WHERE canonical = ? AND output = ?"""
# A chain and those it lies on, and whether their layers are there.
_BELOW = """WITH RECURSIVE part (id, below, layer) AS (
        SELECT id, below, layer FROM chains WHERE id = ?
        UNION ALL SELECT c.id, c.below, c.layer FROM part p JOIN chains c ON c.id = p.below LIMIT ?)
    SELECT id, below, layer, EXISTS (SELECT 1 FROM layers WHERE layers.id = layer) FROM part"""
_GONE = "SELECT count(*) FROM json_each(?) WHERE value NOT IN (SELECT id FROM layers)"
_HAS = """SELECT last_used FROM cache_results INDEXED BY cache_results_used
    WHERE canonical = ? AND output = 0"""
_VALUE = "SELECT value, last_used FROM memo WHERE namespace = ? AND key = ?"


class SavedResult(msgspec.Struct, frozen=True):
    """One output of a vertex. `snapshot` is None when the vertex has no such output. `created_at` is in
    seconds since the epoch."""

    snapshot: Snapshot | None
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
        self._ids: dict[Snapshot, int] = {}
        self._known: dict[int, Snapshot] = {}  # one object for each: equal ones are compared layer by layer
        self._whole: dict[int, Snapshot] = {}  # their layers are held

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
        chain, description, created_at, last_used = row
        snapshot = None if chain is None else self._snapshot(chain)
        if snapshot is None and chain is not None:
            return None
        if last_used < self._now - STALE_S:
            self._used_results.add((canonical, output))
        return SavedResult(snapshot, description, created_at)

    def _snapshot(self, chain: int) -> Snapshot | None:
        """The chain with that id, its layers held; None when one of them is gone. What lies below and was
        asked for before is not looked at again."""
        found: list[tuple[int, str]] = []  # uppermost first
        at, limit = chain, 16
        below = None
        while at and below is None:
            rows = self._meta.query(_BELOW, (at, limit))
            limit *= 4
            if not rows:
                return None
            for at, _, layer, is_here in rows:
                below = self._whole.get(at)
                if below is not None:
                    break
                if not is_here:
                    return None
                found.append((at, layer))
            else:
                at = rows[-1][1]
        # A collection may have taken some between the question and the mark.
        new = [layer for _, layer in found if self._hold(layer)]
        if new and self._meta.query(_GONE, (msgspec.json.encode(new).decode(),))[0][0]:
            return None
        snapshot = below or Snapshot()
        for number, layer in reversed(found):
            known = self._known.get(number)  # numbers are given once
            if known is None:
                known = self._known[number] = snapshot.on(layer)
                self._ids[known] = number
            snapshot = self._whole[number] = known
        return snapshot

    def forget_chains(self) -> None:
        """Look again whether layers are there: some that this process has used were taken away."""
        self._whole.clear()

    def save(
        self,
        canonical: str,
        outputs: Sequence[Snapshot | None],
        *,
        description: str = "",
        created_at: float | None = None,
    ) -> None:
        """Replace what is known of `canonical`, all outputs in one transaction. From now on it is linked to
        itself, also when the results go."""
        now = time.time()
        born = now if created_at is None else created_at
        ids: dict[Snapshot, int] = {}
        with self._meta.transaction() as database:
            rows = [
                (
                    canonical,
                    number,
                    None if one is None else self._chain_of(database, one, ids),
                    description,
                    born,
                    now,
                )
                for number, one in enumerate(outputs)
            ]
            database.execute("DELETE FROM cache_results WHERE canonical = ?", (canonical,))
            database.executemany("INSERT INTO cache_results VALUES (?, ?, ?, ?, ?, ?)", rows)
            database.execute("INSERT OR REPLACE INTO cache_keys VALUES (?, ?)", (canonical, canonical))
        # Not before they are committed: a number that was rolled back is given again.
        self._ids.update(ids)
        for one, chain in ids.items():
            self._known.setdefault(chain, one)

    def _chain_of(self, database: sqlite3.Connection, snapshot: Snapshot, ids: dict[Snapshot, int]) -> int:
        """The id of a chain, which is written as far as it is new; 0 is the empty one. Goes into `ids`."""
        new: list[Snapshot] = []
        at, chain = snapshot, 0
        while at.below is not None:
            known = ids.get(at) or self._ids.get(at, 0)
            # A collection takes chains that no result has; none is taken without those that lie on it.
            if known and database.execute("SELECT 1 FROM chains WHERE id = ?", (known,)).fetchone():
                chain = known
                break
            new.append(at)
            at = at.below
        for at in reversed(new):
            found = (chain, at.top)
            row = database.execute("SELECT id FROM chains WHERE below = ? AND layer = ?", found).fetchone()
            if row is None:
                made = database.execute("INSERT INTO chains (below, layer) VALUES (?, ?)", found)
                assert made.lastrowid is not None
                chain = made.lastrowid
            else:
                chain = row[0]
            ids[at] = chain
        return chain

    def names(self, layer: str) -> bool:
        """Whether a saved result has the layer. Looks at all chains."""
        return self._meta.one("SELECT 1 FROM chains WHERE layer = ? LIMIT 1", (layer,)) is not None

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

    @property
    def has_uses(self) -> bool:
        """Whether times of use were collected."""
        return bool(self._used_results or self._used_values)

    def flush(self, database: sqlite3.Connection) -> None:
        """Write the times of use collected so far, in a transaction of the caller's."""
        results, self._used_results = self._used_results, set()
        values, self._used_values = self._used_values, set()
        now = time.time()
        database.executemany(
            "UPDATE cache_results SET last_used = ? WHERE canonical = ? AND output = ?",
            [(now, *key) for key in sorted(results)],
        )
        database.executemany(
            "UPDATE memo SET last_used = ? WHERE namespace = ? AND key = ?",
            [(now, *key) for key in sorted(values)],
        )
