"""Garbage collection: choosing what goes by policies, and taking it away without harm to anyone.

While new marks of use have to wait (see `leases`), the rows go in one transaction, then files and directories
are renamed out of the way. Only then is content removed. A process killed in between leaves files without a
row, which the next open clears, and nothing else.
"""

from __future__ import annotations

import fcntl
import os
import time
from typing import TYPE_CHECKING

from anyarch.errors import StoreError
from anyarch.store.failure import disk_errors
from anyarch.store.leases import Marks, collecting
from anyarch.store.partial import clear_partials
from anyarch.store.policy import Disk, Settings
from anyarch.store.tree import move_tree, remove_tree
from anyarch.store.usage import records_of

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from anyarch.store.policy import Policy
    from anyarch.store.store import Store
    from anyarch.store.usage import Record

__all__ = ["collect", "collect_after_build", "disk_usage"]

CHECK_EVERY_S = 60.0
_MAX_LINKS = 500_000
_MEMO_S = 60 * 86400.0  # what was not asked for that long is forgotten
_LAYER_TABLES = {"layers": "id", "layer_forms": "layer", "layer_blobs": "layer", "layer_sources": "layer"}


def disk_usage(store: Store) -> list[Record]:
    """All records, with what living processes (but this one) hold marked as in use; largest first."""
    marks = Marks(store.liveness, but=store.liveness.token)
    return sorted(records_of(store, marks), key=lambda record: (-record.size, record.id))


def collect(
    store: Store,
    policies: Sequence[Policy],
    *,
    keep_own: bool = False,
    wait: bool = True,
    on_removed: Callable[[Record], object] = lambda record: None,
) -> list[Record]:
    """Apply `policies` in order and answer what was removed. With `keep_own` what this process has used stays
    too. Without `wait` nothing is done when another process is collecting. `StoreError`."""
    if store.leases.stops_collections:
        return []  # waiting for the lock that we hold would never end
    with collecting(store.root, wait=wait) as is_alone:
        if not is_alone:
            return []
        marks = Marks(store.liveness, but="" if keep_own else store.liveness.token)
        chosen = _choose(records_of(store, marks), policies, Disk.of(store.root))
        removed, trash = _take(store, chosen)
        store.cache.forget_chains()
        _forget_memos(store, unused_s=_MEMO_S)
        if any(policy.all and not policy.filters and not policy.keep_s for policy in policies):
            everything = not any(p.reserved or p.max_used or p.min_free for p in policies)
            _forget_hints(store, everything=everything)
            if everything:
                clear_partials(f"{store.root}/partial", older_s=0)
    for record in removed:
        on_removed(record)
    for path in trash:
        _remove(store, path)
    return removed


def _remove(store: Store, path: str) -> None:
    try:
        remove_tree(path)
    except OSError:  # of other ids, which only a user namespace has
        try:
            store.remove(path)
        except (OSError, StoreError):
            store.leftovers.append(path)  # the next open tries again


def _choose(records: Iterable[Record], policies: Sequence[Policy], disk: Disk) -> list[Record]:
    now = time.time()
    left = {record.id: record for record in records}
    used = sum(record.size for record in left.values())
    freed = 0
    chosen = []
    for policy in policies:
        # A rule with filters limits what it is about, not the whole store.
        scope = [r for r in left.values() if not policy.filters or policy.matches(r, now)]
        scope_used = sum(record.size for record in scope) if policy.filters else used - freed
        goal = policy.goal(scope_used, Disk(disk.total, disk.free + freed))
        candidates = [record for record in scope if policy.matches(record, now)]
        candidates.sort(key=lambda record: (record.last_used, -record.depth, record.id))
        for record in candidates:
            if scope_used <= goal and (policy.reserved or policy.max_used or policy.min_free):
                break
            chosen.append(left.pop(record.id))
            scope_used -= record.size
            freed += record.size
    return chosen


def _take(store: Store, chosen: Sequence[Record]) -> tuple[list[Record], list[str]]:
    """Take `chosen` away; answers what went, and the paths to be removed."""
    layers = [record.id for record in chosen if record.kind == "regular"]
    blobs = {record.id for record in chosen if record.kind == "internal"}
    blobs |= _drop_rows(store, layers, blobs)
    trash: list[str] = []
    with disk_errors(store.root):
        for digest in sorted(blobs):
            target = store.unfinished_file()
            try:
                os.rename(_blob_path(store, digest), target)
            except FileNotFoundError:
                continue
            trash.append(target)
        for layer in layers:
            source = store.layer_path(layer)
            if os.path.lexists(source):
                trash.append(_move_away(store, source))
        removed = [record for record in chosen if record.kind in ("regular", "internal")]
        others = [record for record in chosen if record.kind not in ("regular", "internal")]
        removed += [record for record in others if _move_directory(store, record, trash)]
    return removed, trash


def _move_away(store: Store, path: str) -> str:
    target = str(store.work_dir())
    move_tree(path, f"{target}/gone")
    return target


def _blob_path(store: Store, digest: str) -> str:
    return f"{store.root}/blobs/{digest.replace(':', '/')}"


def _drop_rows(store: Store, layers: Sequence[str], blobs: set[str]) -> set[str]:
    """Delete the rows of `layers` and `blobs` and what depends on them; answers the digests that no layer has
    any more."""
    import json

    keys = json.dumps(sorted(layers))
    chosen = "(SELECT value FROM json_each(?))"
    with store.meta.transaction() as database:
        of_layers = {
            row[0]
            for row in database.execute(f"SELECT digest FROM layer_blobs WHERE layer IN {chosen}", (keys,))
        }
        for table, column in _LAYER_TABLES.items():
            database.execute(f"DELETE FROM {table} WHERE {column} IN {chosen}", (keys,))
        candidates = json.dumps(sorted(of_layers))
        rows = database.execute(
            "SELECT value FROM json_each(?) WHERE value NOT IN (SELECT digest FROM layer_blobs)",
            (candidates,),
        )
        gone = {row[0] for row in rows}
        digests = json.dumps(sorted(gone | blobs))
        for table in ("blobs", "origins"):
            database.execute(f"DELETE FROM {table} WHERE digest IN {chosen}", (digests,))
        _drop_chains(database, keys)
        for name, raw in list(database.execute("SELECT key, value FROM memo WHERE namespace = 'image'")):
            if json.loads(bytes(raw)).get("digest") in blobs:
                database.execute("DELETE FROM memo WHERE namespace = 'image' AND key = ?", (name,))
    return gone


def _drop_chains(database: sqlite3.Connection, layers: str) -> None:
    """Delete the chains in which one of `layers` (a JSON array) is, with their results, and those that no
    result has: of what stays, all that it lies on stays."""
    database.execute(
        """WITH RECURSIVE part (id) AS (
               SELECT id FROM chains WHERE layer IN (SELECT value FROM json_each(?))
               UNION SELECT c.id FROM part p JOIN chains c ON c.below = p.id)
           DELETE FROM cache_results WHERE chain IN (SELECT id FROM part)""",
        (layers,),
    )
    database.execute(
        """WITH RECURSIVE live (id) AS (
               SELECT chain FROM cache_results WHERE chain > 0
               UNION SELECT c.below FROM live l JOIN chains c ON c.id = l.id)
           DELETE FROM chains WHERE id NOT IN (SELECT id FROM live)"""
    )


def _move_directory(store: Store, record: Record, trash: list[str]) -> bool:
    """Rename a cache mount, a checkout or a stat cache away; False when somebody is using it."""
    path = f"{store.root}/{record.id}"
    lock = -1
    if os.path.isdir(path):
        lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if lock >= 0:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        trash.append(_move_away(store, path))
        # The lock file stays: who waits for it would else hold another one than who comes after.
    except BlockingIOError:
        return False
    except FileNotFoundError:
        return False
    finally:
        if lock >= 0:
            os.close(lock)
    return True


def _forget_hints(store: Store, *, everything: bool) -> None:
    """Links and memos that lead nowhere: all after `prune --all`, else when there are very many."""
    (count,) = store.meta.query("SELECT count(*) FROM cache_keys")[0]
    if everything or count > _MAX_LINKS:
        with store.meta.transaction() as database:
            database.execute(
                "DELETE FROM cache_keys WHERE canonical NOT IN (SELECT canonical FROM cache_results)"
            )
    if everything:
        _forget_memos(store)


def _forget_memos(store: Store, *, unused_s: float = 0.0) -> None:
    """Those that nobody has asked for in so many seconds, but for names of images and facts about the
    machine."""
    with store.meta.transaction() as database:
        database.execute(
            "DELETE FROM memo WHERE namespace NOT IN ('image', 'store', 'host') AND last_used <= ?",
            (time.time() - unused_s,),
        )


# after builds -------------------------------------------------------------------------------------


def collect_after_build(store: Store, table: Mapping[str, object] | None = None) -> list[Record]:
    """Apply the rules of `table` (as `[gc]`; None: those of the configuration file), when this process made
    the store grow, and the last time is a minute ago.

    Costs a cached build nothing, and one that grew the store a look at sizes. Never waits for another
    collection.
    """
    if not store.grown:
        return []
    stamp = f"{store.root}/collect.time"
    with disk_errors(stamp):
        try:
            # One of the future is of a clock that was set back since.
            if 0 <= time.time() - os.stat(stamp).st_mtime < CHECK_EVERY_S:
                return []
        except FileNotFoundError:
            pass  # the first time
        os.close(os.open(stamp, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644))
        os.utime(stamp)
    disk = Disk.of(store.root)
    settings = Settings.load(disk) if table is None else Settings.of(table, disk)
    if not settings.enabled:
        return []
    return collect(store, settings.policies, wait=False)
