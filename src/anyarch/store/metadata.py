"""The SQLite database of a store: schema, connections, and its errors in our words.

WAL mode: readers never wait. One connection reads, another writes, each guarded by a lock: our
transactions are short, and two connections for the whole process open faster than one for each thread.
`sqlite3` is imported and the file opened when the first question is asked.
"""

from __future__ import annotations

import fcntl
import os
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

from anyarch.errors import StoreError
from anyarch.store.failure import no_space, storage_error

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

__all__ = ["SCHEMA_VERSION", "Metadata"]

BUSY_TIMEOUT_S = 60


def _known_origins(database: sqlite3.Connection) -> None:
    from anyarch.store.origins import record_known_origins

    record_known_origins(database)


def _link_chains(database: sqlite3.Connection) -> None:
    """Results named all their layers (a JSON array); from now on each names a row of `chains`."""
    import json

    rows = database.execute("SELECT * FROM old_results")  # read one by one: together they may be huge
    known: dict[tuple[int, str], int] = {}
    for canonical, output, layers, *rest in rows:
        chain: int | None = None if layers is None else 0
        for layer in json.loads(layers) if layers is not None else ():
            link = (chain or 0, layer)
            if link not in known:
                made = database.execute("INSERT INTO chains (below, layer) VALUES (?, ?)", link)
                known[link] = made.lastrowid or 0
            chain = known[link]
        database.execute(
            "INSERT INTO cache_results VALUES (?, ?, ?, ?, ?, ?)", (canonical, output, chain, *rest)
        )


# For each version its statements, and functions that fill what they make; a version that was released is
# never edited, another is added.
_MIGRATIONS: tuple[tuple[str | Callable[[sqlite3.Connection], None], ...], ...] = (
    (
        # forms: what exists of a layer on disk; `form` is index, tar, dir or dir-<variant>
        """CREATE TABLE layers (
            id TEXT PRIMARY KEY, diff_id TEXT, size INTEGER NOT NULL, description TEXT NOT NULL,
            created_at REAL NOT NULL, last_used REAL NOT NULL) WITHOUT ROWID""",
        """CREATE TABLE layer_forms (
            layer TEXT NOT NULL, form TEXT NOT NULL, size INTEGER NOT NULL, made_at REAL NOT NULL,
            PRIMARY KEY (layer, form)) WITHOUT ROWID""",
        # compression is the key of the compressor that made the blob, empty when it was pulled
        """CREATE TABLE layer_blobs (
            layer TEXT NOT NULL, digest TEXT NOT NULL, compression TEXT NOT NULL, descriptor BLOB NOT NULL,
            PRIMARY KEY (layer, digest, compression)) WITHOUT ROWID""",
        """CREATE TABLE layer_sources (
            layer TEXT NOT NULL, digest TEXT NOT NULL, reference TEXT NOT NULL, seen_at REAL NOT NULL,
            PRIMARY KEY (layer, digest, reference)) WITHOUT ROWID""",
        """CREATE TABLE blobs (
            digest TEXT PRIMARY KEY, size INTEGER NOT NULL, created_at REAL NOT NULL, last_used REAL NOT NULL
            ) WITHOUT ROWID""",
        "CREATE TABLE cache_keys (key TEXT PRIMARY KEY, canonical TEXT NOT NULL) WITHOUT ROWID",
        # layers: JSON array of layer ids, lowest first; NULL when the vertex has no such output
        """CREATE TABLE cache_results (
            canonical TEXT NOT NULL, output INTEGER NOT NULL, layers TEXT, description TEXT NOT NULL,
            created_at REAL NOT NULL, last_used REAL NOT NULL, PRIMARY KEY (canonical, output)) WITHOUT
            ROWID""",
        """CREATE TABLE memo (
            namespace TEXT NOT NULL, key TEXT NOT NULL, value BLOB NOT NULL, last_used REAL NOT NULL,
            PRIMARY KEY (namespace, key)) WITHOUT ROWID""",
    ),
    # Whether there is a result is asked for every vertex; its row, with all its layers, is read for few.
    ("CREATE INDEX cache_results_used ON cache_results (canonical, output, last_used)",),
    (
        """CREATE TABLE origins (
            digest TEXT NOT NULL, repository TEXT NOT NULL, seen_at REAL NOT NULL,
            PRIMARY KEY (digest, repository)) WITHOUT ROWID""",
        _known_origins,
    ),
    (
        # A chain of layers is its uppermost layer on another chain; 0 is the empty one. An id is never given
        # twice: who remembers one that was collected must not find another chain under it.
        """CREATE TABLE chains (
            id INTEGER PRIMARY KEY AUTOINCREMENT, below INTEGER NOT NULL, layer TEXT NOT NULL,
            UNIQUE (below, layer))""",
        "DROP INDEX cache_results_used",
        "ALTER TABLE cache_results RENAME TO old_results",
        # chain: NULL when the vertex has no such output
        """CREATE TABLE cache_results (
            canonical TEXT NOT NULL, output INTEGER NOT NULL, chain INTEGER, description TEXT NOT NULL,
            created_at REAL NOT NULL, last_used REAL NOT NULL, PRIMARY KEY (canonical, output)) WITHOUT
            ROWID""",
        _link_chains,
        "DROP TABLE old_results",
        "CREATE INDEX cache_results_used ON cache_results (canonical, output, last_used)",
    ),
    # uses: how many builds and other commands used it; of what was made before that was counted, one did
    tuple(f"ALTER TABLE {table} ADD COLUMN uses INTEGER NOT NULL DEFAULT 1" for table in ("layers", "blobs")),
)
SCHEMA_VERSION = len(_MIGRATIONS)


class Metadata:
    """Thread-safe. Every error is a `StoreError` (`NoSpace` when the disk is full)."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)
        self._reader: sqlite3.Connection | None = None
        self._writer: sqlite3.Connection | None = None
        self._read_lock = threading.Lock()
        self._write_lock = threading.RLock()

    def query(self, sql: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """All rows of a SELECT, from the last committed state."""
        with self._read_lock:
            try:
                if self._reader is None:
                    self._reader = self._connect(read_only=True)
                return self._reader.execute(sql, parameters).fetchall()
            except Exception as error:
                self._raise(error)

    def one(self, sql: str, parameters: Sequence[object] = ()) -> tuple[Any, ...] | None:
        """The first row of a SELECT."""
        rows = self.query(sql, parameters)
        return rows[0] if rows else None

    @contextmanager
    def transaction(self, *, patience_s: float = BUSY_TIMEOUT_S) -> Iterator[sqlite3.Connection]:
        """One write transaction: committed at the end, rolled back on any exception. No other process writes
        meanwhile, so keep it short; it may be nested by the same thread (the outermost commits). Waits for
        other writers for `patience_s` at most."""
        with self._write_lock:
            try:
                if self._writer is None:
                    self._writer = self._connect(read_only=False)
                database = self._writer
                outermost = not database.in_transaction
                if outermost and patience_s != BUSY_TIMEOUT_S:
                    database.execute(f"PRAGMA busy_timeout={int(patience_s * 1000)}")
                    try:
                        database.execute("BEGIN IMMEDIATE")
                    finally:
                        database.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_S * 1000}")
                elif outermost:
                    database.execute("BEGIN IMMEDIATE")
            except Exception as error:
                self._raise(error)
            try:
                yield database
                if outermost:
                    database.execute("COMMIT")
            except BaseException as error:
                if outermost and database.in_transaction:
                    database.execute("ROLLBACK")
                if hasattr(error, "sqlite_errorcode"):
                    self._raise(error)
                raise

    def close(self) -> None:
        """Close the connections; the next question opens them again."""
        with self._write_lock, self._read_lock:
            try:
                if self._reader is not None:
                    self._reader.close()
                if self._writer is not None:
                    self._writer.close()
            except Exception as error:
                self._raise(error)
            finally:
                self._reader = self._writer = None

    def _connect(self, *, read_only: bool) -> sqlite3.Connection:
        import sqlite3

        database = sqlite3.connect(
            self._path,
            timeout=BUSY_TIMEOUT_S,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=128,
        )
        try:
            version = _version(database)
            if version < SCHEMA_VERSION:
                self._migrate(database)
            elif version > SCHEMA_VERSION:
                raise StoreError(
                    f"the store at {os.path.dirname(self._path)} was made by a newer anyarch"
                    f" (format {version}, this one knows {SCHEMA_VERSION})",
                    hint="upgrade anyarch, or set ANYARCH_ROOT to another directory",
                )
            database.execute("PRAGMA query_only=1" if read_only else "PRAGMA synchronous=NORMAL")
        except BaseException:
            database.close()
            raise
        return database

    def _migrate(self, database: sqlite3.Connection) -> None:
        # Going to WAL does not honour the busy timeout, so processes that open a new store at once take
        # turns.
        turn = os.open(os.path.dirname(self._path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(turn, fcntl.LOCK_EX)
            database.execute("PRAGMA journal_mode=WAL")
            database.execute("BEGIN IMMEDIATE")
            for number in range(_version(database), SCHEMA_VERSION):
                for step in _MIGRATIONS[number]:
                    if isinstance(step, str):
                        database.execute(step)
                    else:
                        step(database)
                database.execute(f"PRAGMA user_version={number + 1}")
            database.execute("COMMIT")
        finally:
            os.close(turn)

    def _raise(self, error: BaseException) -> NoReturn:
        """Raise what `error` is in our words; `error` itself when it is none of the database or the disk."""
        if isinstance(error, OSError):
            raise storage_error(error, self._path) from error
        code = getattr(error, "sqlite_errorcode", None)
        if code is None:
            raise error
        raise self._explain(code & 0xFF, error) from error

    def _explain(self, code: int, error: BaseException) -> StoreError:
        match code:
            case 13:  # SQLITE_FULL
                return no_space(self._path)
            case 11 | 26:  # SQLITE_CORRUPT, SQLITE_NOTADB
                return StoreError(
                    f"the store's database is damaged: {self._path}: {error}",
                    hint=f"end all anyarch processes, then remove {self._path} with its -wal and -shm files:"
                    " cached steps run again, nothing else is lost",
                )
            case 5 | 6:  # SQLITE_BUSY, SQLITE_LOCKED
                return StoreError(
                    f"another process holds the store's database for over {BUSY_TIMEOUT_S} s: {self._path}",
                    hint="look for a stopped anyarch process",
                )
            case 3 | 8 | 14 | 23:  # SQLITE_PERM, SQLITE_READONLY, SQLITE_CANTOPEN, SQLITE_AUTH
                return StoreError(
                    f"cannot write to the store's database: {self._path}: {error}",
                    hint="make the directory writable for this user, or set ANYARCH_ROOT to one that is",
                )
            case _:
                return StoreError(f"the store's database failed: {self._path}: {error}")


def _version(database: sqlite3.Connection) -> int:
    (version,) = database.execute("PRAGMA user_version").fetchone()
    return int(version)
