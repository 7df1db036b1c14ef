"""What the solver keeps: links, results, memos."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from anyarch.spec.digest import Digest
from anyarch.spec.snapshot import Snapshot
from anyarch.store.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store") as store:
        yield store


def test_several_keys_lead_to_one_result(store: Store) -> None:
    store.records.add("l1", size=1)
    store.records.add("l2", size=1)
    store.cache.link("definition", "c")
    store.cache.link("content", "c")
    store.cache.save("c", [Snapshot(("l1", "l2")), None, Snapshot()], description="RUN make", created_at=12.5)
    assert store.cache.canonical("definition") == store.cache.canonical("content") == "c"
    assert store.cache.canonical("other") is None
    saved = store.cache.load("c", 0)
    assert saved is not None
    assert (saved.snapshot.layers, saved.description, saved.created_at) == (("l1", "l2"), "RUN make", 12.5)
    none = store.cache.load("c", 1)
    assert none is not None
    assert none.snapshot is None
    scratch = store.cache.load("c", 2)
    assert scratch is not None
    assert scratch.snapshot.layers == ()
    assert store.cache.load("c", 3) is None


def test_a_result_whose_layer_is_gone_is_no_result(store: Store) -> None:
    store.records.add("l1", size=1)
    store.records.add("l2", size=1)
    store.cache.save("c", [Snapshot(("l1", "l2"))])
    store.records.drop("l1", take_away=lambda: None)
    assert store.cache.load("c", 0) is None


def test_of_results_that_lie_on_one_another_each_takes_a_row(store: Store) -> None:
    chain = Snapshot()
    for number in range(300):
        store.records.add(f"l{number}", size=1)
        chain = chain.on(f"l{number}")
        store.cache.save(f"c{number}", [chain])
    assert store.meta.one("SELECT count(*) FROM chains") == (300,)
    asked = 0
    query = store.meta.query

    def counted(sql: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        nonlocal asked
        rows = query(sql, parameters)
        asked += len(rows)
        return rows

    store.meta.query = counted  # type: ignore[method-assign]
    saved = [store.cache.load(f"c{number}", 0) for number in range(300)]
    assert asked < 300 * 20  # the chains below were asked for before
    assert [one.snapshot.depth for one in saved if one and one.snapshot] == list(range(1, 301))
    assert saved[-1] is not None
    assert saved[-1].snapshot == chain


def test_a_chain_that_another_process_took_is_written_anew(store: Store, tmp_path: Path) -> None:
    store.records.add("l1", size=1)
    store.records.add("l2", size=1)
    below = Snapshot(("l1",))
    store.cache.save("c", [below])
    with store.meta.transaction() as database:  # as a collection does with what no result has
        database.execute("DELETE FROM cache_results")
        database.execute("DELETE FROM chains")
        database.execute("INSERT INTO chains (below, layer) VALUES (0, 'l2')")  # of another build
    store.cache.save("d", [below.on("l2")])
    with Store.open(tmp_path / "store") as other:
        saved = other.cache.load("d", 0)
        assert saved is not None
        assert saved.snapshot == Snapshot(("l1", "l2"))


def test_saving_again_replaces_all_outputs(store: Store) -> None:
    store.cache.save("c", [Snapshot(), Snapshot()])
    store.cache.save("c", [Snapshot()])
    assert store.cache.load("c", 1) is None
    store.cache.forget("c")
    assert store.cache.load("c", 0) is None


def test_that_a_result_was_made_once_outlives_it(store: Store) -> None:
    assert store.cache.canonical("c") is None
    store.cache.save("c", [None])
    store.cache.forget("c")
    assert (store.cache.canonical("c"), store.cache.has("c")) == ("c", False)


def test_ids_that_are_digests_are_saved_as_text(store: Store) -> None:
    digest = Digest.of(b"x")
    store.records.add(digest, size=1)
    store.cache.save("c", [Snapshot((digest,))])
    saved = store.cache.load("c", 0)
    assert saved is not None
    assert saved.snapshot.layers == (str(digest),)


def test_memos_are_kept_by_namespace(store: Store) -> None:
    store.cache.set_value("a", "k", b"1")
    store.cache.set_value("b", "k", b"\0\xff")
    store.cache.set_value("a", "k", b"2")
    assert store.cache.get_value("a", "k") == b"2"
    assert store.cache.get_value("b", "k") == b"\0\xff"
    store.cache.delete_value("a", "k")
    assert store.cache.get_value("a", "k") is None


def flush(store: Store) -> None:
    with store.meta.transaction() as database:
        store.cache.flush(database)


def test_use_is_noted_only_when_it_is_an_hour_out_of_date(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "store"
    with Store.open(root) as store:
        store.cache.save("c", [Snapshot()])
        store.cache.set_value("a", "k", b"1")
    with Store.open(root) as store:
        before = store.meta.query("SELECT last_used FROM cache_results UNION ALL SELECT last_used FROM memo")
        store.cache.load("c", 0)
        store.cache.get_value("a", "k")
        flush(store)
        after = store.meta.query("SELECT last_used FROM cache_results UNION ALL SELECT last_used FROM memo")
        assert after == before
    monkeypatch.setattr("anyarch.store.cache.time.time", lambda: before[0][0] + 4000)
    with Store.open(root) as store:
        store.cache.load("c", 0)
        store.cache.get_value("a", "k")
    with Store.open(root) as store:
        after = store.meta.query("SELECT last_used FROM cache_results UNION ALL SELECT last_used FROM memo")
    assert [row[0] for row in after] == [before[0][0] + 4000] * 2
