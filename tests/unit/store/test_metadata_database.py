"""The database: made once by however many processes, and clear about what is wrong with it."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from anyarch.errors import NoSpace, StoreError
from anyarch.spec.snapshot import Snapshot
from anyarch.store.cache import CacheRecords
from anyarch.store.formats import MIGRATIONS
from anyarch.store.layers import LayerRecords
from anyarch.store.metadata import SCHEMA_VERSION, Metadata

if TYPE_CHECKING:
    from pathlib import Path


def test_what_was_committed_is_read(tmp_path: Path) -> None:
    meta = Metadata(tmp_path / "anyarch.db")
    with meta.transaction() as database:
        database.execute("INSERT INTO cache_keys VALUES ('a', 'b')")
    assert meta.query("SELECT * FROM cache_keys") == [("a", "b")]
    assert meta.one("SELECT * FROM cache_keys WHERE key = ?", ("x",)) is None
    meta.close()
    assert meta.one("SELECT canonical FROM cache_keys") == ("b",)  # opened again
    meta.close()


def test_an_exception_rolls_all_back(tmp_path: Path) -> None:
    meta = Metadata(tmp_path / "anyarch.db")
    with pytest.raises(KeyError), meta.transaction() as database:
        database.execute("INSERT INTO cache_keys VALUES ('a', 'b')")
        with meta.transaction() as inner:
            inner.execute("INSERT INTO cache_keys VALUES ('c', 'd')")
        raise KeyError
    assert meta.query("SELECT * FROM cache_keys") == []
    meta.close()


def test_many_threads_use_one_database(tmp_path: Path) -> None:
    meta = Metadata(tmp_path / "anyarch.db")

    def work(number: int) -> None:
        for step in range(20):
            with meta.transaction() as database:
                database.execute("INSERT INTO cache_keys VALUES (?, 'x')", (f"{number}-{step}",))
            assert meta.one("SELECT 1 FROM cache_keys WHERE key = ?", (f"{number}-{step}",)) == (1,)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert meta.one("SELECT count(*) FROM cache_keys") == (160,)
    meta.close()


def test_processes_that_create_it_at_once_agree(tmp_path: Path) -> None:
    program = """
import sys
from pathlib import Path
from anyarch.store.metadata import Metadata
sys.stdin.read(1)
meta = Metadata(Path(sys.argv[1]))
for step in range(10):
    with meta.transaction() as database:
        database.execute("INSERT INTO cache_keys VALUES (?, 'x')", (f"{sys.argv[2]}-{step}",))
meta.close()
"""
    children = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path / "anyarch.db"), str(number)], stdin=subprocess.PIPE
        )
        for number in range(4)
    ]
    for child in children:
        assert child.stdin is not None
        child.stdin.write(b"x")
        child.stdin.close()
    assert [child.wait() for child in children] == [0] * 4
    meta = Metadata(tmp_path / "anyarch.db")
    assert meta.one("SELECT count(*) FROM cache_keys") == (40,)
    assert meta.one("PRAGMA journal_mode") == ("wal",)
    meta.close()


def test_the_version_is_that_of_the_last_change_of_format() -> None:
    assert len(MIGRATIONS) == SCHEMA_VERSION


def test_a_newer_schema_is_left_alone(tmp_path: Path) -> None:
    database = sqlite3.connect(tmp_path / "anyarch.db")
    database.execute(f"PRAGMA user_version={SCHEMA_VERSION + 1}")
    database.close()
    with pytest.raises(StoreError, match="newer anyarch") as caught:
        Metadata(tmp_path / "anyarch.db").query("SELECT 1")
    assert "upgrade" in (caught.value.hint or "")


def test_results_of_an_older_schema_are_kept(tmp_path: Path) -> None:
    database = sqlite3.connect(tmp_path / "anyarch.db")
    for statement in (*MIGRATIONS[0], *MIGRATIONS[1]):
        assert isinstance(statement, str)
        database.execute(statement)
    database.execute("PRAGMA user_version=2")
    rows = [("a", 0, '["l1","l2","l3"]'), ("b", 0, '["l1","l2"]'), ("b", 1, None), ("c", 0, "[]")]
    database.executemany("INSERT INTO cache_results VALUES (?, ?, ?, 'RUN', 1.5, 2.5)", rows)
    database.commit()
    database.close()
    meta = Metadata(tmp_path / "anyarch.db")
    for number in (1, 2, 3):
        LayerRecords(meta).add(f"l{number}", size=1)
    cache = CacheRecords(meta)
    for canonical, output, layers in rows:
        saved = cache.load(canonical, output)
        assert saved is not None
        assert saved.snapshot == (None if layers is None else Snapshot(json.loads(layers)))
        assert (saved.description, saved.created_at) == ("RUN", 1.5)
    assert meta.one("SELECT count(*) FROM chains") == (3,)
    assert cache.has("a")
    meta.close()


def test_a_damaged_database_says_what_to_remove(tmp_path: Path) -> None:
    (tmp_path / "anyarch.db").write_bytes(b"no database at all" * 100)
    meta = Metadata(tmp_path / "anyarch.db")
    with pytest.raises(StoreError, match="damaged") as caught:
        meta.query("SELECT 1")
    assert str(tmp_path / "anyarch.db") in (caught.value.hint or "")
    with pytest.raises(StoreError, match="damaged"), meta.transaction():
        pass


def test_a_database_damaged_in_the_middle_says_so(tmp_path: Path) -> None:
    path = tmp_path / "anyarch.db"
    meta = Metadata(path)
    with meta.transaction() as database:
        database.executemany(
            "INSERT INTO cache_keys VALUES (?, ?)", [(str(n) * 50, "x" * 99) for n in range(999)]
        )
    meta.close()
    raw = bytearray(path.read_bytes())
    raw[4096 * 2 :] = b"\xff" * len(raw[4096 * 2 :])
    path.write_bytes(raw)
    with pytest.raises(StoreError, match="damaged"):
        meta.query("SELECT count(*), sum(length(canonical)) FROM cache_keys")
    meta.close()


def test_a_missing_directory_is_a_store_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError):
        Metadata(tmp_path / "none" / "anyarch.db").query("SELECT 1")


def test_a_full_database_is_no_space(tmp_path: Path) -> None:
    meta = Metadata(tmp_path / "anyarch.db")
    with meta.transaction() as database:
        pages = database.execute("PRAGMA page_count").fetchone()[0]
    with pytest.raises(NoSpace) as caught, meta.transaction() as database:
        # As if the disk were full: sqlite reports the same code for both.
        database.execute(f"PRAGMA max_page_count={pages}")
        database.executemany(
            "INSERT INTO cache_keys VALUES (?, ?)", [(str(n) * 50, "x" * 99) for n in range(999)]
        )
    assert str(tmp_path) in caught.value.message
    assert meta.query("SELECT * FROM cache_keys") == []
    meta.close()


def test_nothing_is_imported_or_opened_before_the_first_question(tmp_path: Path) -> None:
    program = """
import sys
from pathlib import Path
from anyarch.store.store import Store
with Store.open(Path(sys.argv[1])):
    assert "sqlite3" not in sys.modules
heavy = {"sqlite3", "subprocess", "tempfile", "shutil", "ssl", "tarfile", "concurrent.futures", "logging"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "store")], check=True)
    assert not (tmp_path / "store" / "anyarch.db").exists()
