"""The database's formats, each as the change from the one before it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable

__all__ = ["MIGRATIONS", "record_known_origins"]


def record_known_origins(database: sqlite3.Connection) -> None:
    """Part of the change of format: what older releases kept of where layers come from. A layer's source
    there is the manifest that lists it: `repository[:tag]@digest`."""
    found: set[tuple[str, str, float]] = set()
    for digest, reference, seen_at in database.execute(
        "SELECT digest, reference, seen_at FROM layer_sources"
    ):
        name, separator, manifest = reference.partition("@")
        if not separator or name.startswith(("cache:", "layout:", "blobs:")):
            continue  # the word of a build cache, or no registry
        path, slash, last = name.rpartition("/")
        repository = f"{path}{slash}{last.partition(':')[0]}"
        found |= {(digest, repository, seen_at), (manifest, repository, seen_at)}
    database.executemany("INSERT OR IGNORE INTO origins VALUES (?, ?, ?)", sorted(found))


def _link_chains(database: sqlite3.Connection) -> None:
    """Results named all their layers (a JSON array); from now on each names a row of `chains`."""
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
MIGRATIONS: tuple[tuple[str | Callable[[sqlite3.Connection], None], ...], ...] = (
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
        record_known_origins,
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
