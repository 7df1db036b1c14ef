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
    from collections.abc import Iterator, Sequence
    from pathlib import Path

__all__ = ["SCHEMA_VERSION", "Metadata"]

BUSY_TIMEOUT_S = 60

SCHEMA_VERSION = 5
"""What `formats.MIGRATIONS` lead to; a test counts them."""


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
        from anyarch.store.formats import MIGRATIONS

        # Going to WAL does not honour the busy timeout, so processes that open a new store at once take
        # turns.
        turn = os.open(os.path.dirname(self._path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(turn, fcntl.LOCK_EX)
            database.execute("PRAGMA journal_mode=WAL")
            database.execute("BEGIN IMMEDIATE")
            for number in range(_version(database), SCHEMA_VERSION):
                for step in MIGRATIONS[number]:
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
