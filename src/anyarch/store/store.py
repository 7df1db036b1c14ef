"""The store: one directory, opened by any number of processes at the same time.

    anyarch.db        SQLite: layers, blobs, cache keys and results, memos
    blobs/            complete blobs by digest
    ingest/           files being written, named <token>.<n> after the process (see `liveness`)
    partial/          what was fetched of large blobs, for whoever goes on with it (see `partial`)
    work/             directories being written or worked in, named likewise
    layers/<name>/    forms of layers (see `snapshot.layers`)
    locks/            one locked file for each process; in it, what the process uses (see `leases`)
    grown             what was added since, where there is a cap (see `cap`)
    collect.lock      locked by who takes things away (see `collect`); collect.time: when that was last tried
    stat/             digests of files of build contexts (see `snapshot.hosttree`)

What a process that died left is cleared by the next one that opens the store; what live ones do is never
touched.
"""

from __future__ import annotations

import itertools
import os
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from anyarch.errors import StoreError
from anyarch.store.cache import CacheRecords
from anyarch.store.content import ContentStore
from anyarch.store.failure import disk_errors
from anyarch.store.layers import LayerRecords
from anyarch.store.leases import Leases, collecting
from anyarch.store.liveness import Liveness, owner_of
from anyarch.store.metadata import Metadata
from anyarch.store.origins import Origins
from anyarch.store.partial import clear_partials
from anyarch.store.place import default_root
from anyarch.store.tree import move_tree, remove_tree

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

    from anyarch.spec.digest import Digest
    from anyarch.store.cap import Cap
    from anyarch.store.liveness import DeadOwner

__all__ = ["Store", "default_root"]

_PATIENCE_S = 0.5  # for hints that a build does not fail without
_DIRECTORIES = ("locks", "ingest", "work", "layers", "stat", "blobs/sha256")


class Store:
    """Thread-safe. Context manager, or `close` it. Raises `StoreError` and what is below it."""

    root: Path
    content: ContentStore
    meta: Metadata
    cache: CacheRecords
    records: LayerRecords
    leases: Leases
    origins: Origins

    def __init__(self, root: Path, liveness: Liveness) -> None:
        self.root = root
        self._liveness = liveness
        self._numbers = itertools.count()
        self.meta = Metadata(root / "anyarch.db")
        self.leases = Leases(root, liveness)
        self.cache = CacheRecords(self.meta, hold=self.leases.hold)
        self.origins = Origins(self.meta)
        self.records = LayerRecords(
            self.meta, hold=self.leases.hold, grows=partial(self.grew, is_there=False)
        )
        self.content = ContentStore(
            root, unfinished=self.unfinished_file, committed=self._record_blob, hold=self.leases.hold
        )
        self.leftovers: list[str] = []
        """What could not be removed because it belongs to other ids (paths); see `snapshot.open_layers`."""
        self.remove: Callable[[str], None] = remove_tree
        """Removes directory trees, whoever their files belong to (`snapshot.open_layers` says how)."""
        self._not_used: set[str] = set()
        self.grown = 0
        """Bytes that were added through this object."""
        self._cap: Cap | None = None

    @classmethod
    def open(cls, root: Path, *, remove: Callable[[str], None] = remove_tree) -> Store:
        """Open, or create, the store at `root` and clear what dead processes left (with `remove`, which an
        ordinary user's caller may run in a user namespace). The database is opened when it is first asked
        something."""
        root = Path(os.path.abspath(root))
        if not os.path.isdir(root / "blobs/sha256"):
            with disk_errors(root):
                for name in _DIRECTORIES:
                    os.makedirs(root / name, mode=0o755, exist_ok=True)
        store = cls(root, Liveness(root / "locks"))
        try:
            store._clear_leftovers(remove)
            clear_partials(f"{root}/partial")
        except BaseException:
            store._liveness.close(cleared=True)
            raise
        return store

    @property
    def liveness(self) -> Liveness:
        """Who has the store open."""
        return self._liveness

    def unfinished_file(self) -> str:
        """A new path in ingest/ that bears our token. Nothing is created."""
        return f"{self.root}/ingest/{self._liveness.token}.{next(self._numbers)}"

    def work_dir(self) -> Path:
        """A new empty directory in work/, for us to remove; the next `open` clears it should we die
        before."""
        path = self.root / "work" / f"{self._liveness.token}.{next(self._numbers)}"
        with disk_errors(path):
            path.mkdir(mode=0o700)
        return path

    def layer_path(self, layer: str) -> str:
        """The directory of a layer's forms. It need not exist."""
        return f"{self.root}/layers/{layer.replace(':', '-')}"

    def verify(self) -> list[str]:
        """Compare all that the database names with what is on disk, reading every blob and tar. Answers
        one line for each thing that is wrong. Slow; for `store check` and tests."""
        from anyarch.store.check import verify

        with self._untold():
            return verify(self)

    @contextmanager
    def _untold(self) -> Iterator[None]:
        """What is touched meanwhile is held, and does not count as used."""
        before = set(self.leases.held())
        try:
            yield
        finally:
            self._not_used |= set(self.leases.held()) - before

    def close(self) -> None:
        """Write what is pending, remove what we left unfinished and let go of the store. Idempotent."""
        try:
            # Hints for collections: who cannot write them (a full disk, a busy database) goes without.
            with suppress(StoreError):
                self._count_uses()
        finally:
            try:
                self.leases.close()
                self.meta.close()
            finally:
                # With the lock file left behind, the next open looks for what we could not finish.
                self._liveness.close(cleared=self._clear_own() and not self.records.has_orphans)

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _count_uses(self) -> None:
        """Write what was used and when: once for each layer and blob, however often it was asked for. One
        transaction, which waits for no other writer for long."""
        import time

        import msgspec

        held = [key for key in self.leases.held() if key not in self._not_used]
        if not held and not self.cache.has_uses:
            return
        now = time.time()
        keys = msgspec.json.encode(held).decode()
        with self.meta.transaction(patience_s=_PATIENCE_S) as database:
            self.cache.flush(database)
            for table, column in (("layers", "id"), ("blobs", "digest")):
                database.execute(
                    f"""UPDATE {table} SET last_used = ?, uses = uses + 1
                        WHERE {column} IN (SELECT value FROM json_each(?))""",
                    (now, keys),
                )

    def _record_blob(self, digest: Digest, size: int) -> None:
        import time

        now = time.time()
        with self.meta.transaction() as database:
            database.execute(
                """INSERT INTO blobs (digest, size, created_at, last_used, uses) VALUES (?, ?, ?, ?, 0)
                   ON CONFLICT (digest) DO UPDATE SET last_used = excluded.last_used""",
                (digest, size, now, now),
            )
        self.grew(size)

    def grew(self, size: int, *, is_there: bool = True) -> None:
        """So many bytes were added, or are about to be: keep to the configured cap. `NoSpace` when nothing
        can make room."""
        from anyarch.store.cap import Cap

        self.grown += size
        if self._cap is None:
            self._cap = Cap(self)
        self._cap.grew(size, is_there=is_there)

    def _unfinished(self) -> list[str]:
        """Paths of all that is unfinished, of whichever process."""
        with disk_errors(self.root):
            return [
                f"{self.root}/{place}/{name}"
                for place in ("ingest", "work")
                for name in os.listdir(self.root / place)
            ]

    def _clear_own(self) -> bool:
        """Remove what bears our token; False when something of it stays for the next `open`."""
        cleared = True
        for path in self._unfinished():
            if owner_of(os.path.basename(path)) == self._liveness.token:
                try:
                    remove_tree(path)
                except OSError:
                    cleared = False  # it belongs to other ids, or a thread of ours still writes there
        return cleared

    def _clear_leftovers(self, remove: Callable[[str], None]) -> None:
        unfinished = self._unfinished()
        dead = self._liveness.dead({owner_of(os.path.basename(path)) for path in unfinished})
        # The user may have removed a damaged database, as its error told.
        lost = not os.path.exists(self.root / "anyarch.db") and os.listdir(self.root / "layers")
        if not dead and not lost:
            return
        # A collection in progress has forms without a row too: they are looked for at another open then.
        with collecting(self.root, wait=False) as is_alone:
            self._clear_dead(dead, unfinished, remove, is_alone=is_alone)
            if is_alone:
                self._clear_orphans(remove)

    def _clear_dead(
        self, dead: list[DeadOwner], unfinished: list[str], remove: Callable[[str], None], *, is_alone: bool
    ) -> None:
        for owner in dead:
            cleared = is_alone
            for path in unfinished:
                if owner_of(os.path.basename(path)) == owner.token:
                    try:
                        remove(path)
                    except (OSError, StoreError):
                        self.leftovers.append(path)
                        cleared = False
            owner.release(cleared=cleared)

    def _clear_orphans(self, remove: Callable[[str], None]) -> None:
        """Take away forms without a row: their process died between renaming and committing. Nobody
        publishes while we hold the write transaction, so nothing else can be in that state."""
        trash = []
        with self.meta.transaction() as database, disk_errors(self.root / "layers"):
            layers = {self.layer_path(row[0]) for row in database.execute("SELECT id FROM layers")}
            forms = {
                f"{self.layer_path(layer)}/{form}"
                for layer, form in database.execute("SELECT layer, form FROM layer_forms")
            }
            for name in os.listdir(self.root / "layers"):
                path = f"{self.root}/layers/{name}"
                orphans = [path]
                if path in layers:
                    orphans = [f"{path}/{form}" for form in os.listdir(path)]
                    orphans = [
                        form for form in orphans if form not in forms and _is_form(os.path.basename(form))
                    ]
                for orphan in orphans:
                    target = f"{self.root}/work/{self._liveness.token}.{next(self._numbers)}"
                    move_tree(orphan, target)
                    trash.append(target)
        for path in trash:
            try:
                remove(path)
            except (OSError, StoreError):
                self.leftovers.append(path)


def _is_form(name: str) -> bool:
    return name in ("index", "tar") or name.partition("-")[0] == "dir"
