"""Collecting: what goes, in which order, and what never does."""

from __future__ import annotations

import fcntl
import io
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from anyarch.archive.compression import Compression
from anyarch.archive.entry import Entry, Kind
from anyarch.errors import NoSpace
from anyarch.snapshot.layers import open_layers
from anyarch.spec.oci import Descriptor
from anyarch.spec.snapshot import Snapshot
from anyarch.store import collect as collecting
from anyarch.store.collect import collect, collect_after_build, disk_usage
from anyarch.store.policy import Filter, Policy
from anyarch.store.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from anyarch.snapshot.layers import Layer

EVERYTHING = (Policy(all=True),)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ANYARCH_CONFIG", str(tmp_path / "config.toml"))
    return tmp_path / "store"


@pytest.fixture
def store(root: Path) -> Iterator[Store]:
    with Store.open(root) as store:
        yield store


def layer(store: Store, name: str, size: int = 1000) -> Layer:
    with open_layers(store).new_tar(description=name) as out:
        content = name.encode().ljust(size, b".")
        out.add(Entry(name, Kind.FILE, 0o644, size=size), io.BytesIO(content))
        return out.commit()


def used_at(store: Store, when: float, *layers: Layer) -> None:
    with store.meta.transaction() as database:
        for one in layers:
            database.execute("UPDATE layers SET last_used = ? WHERE id = ?", (when, one.id))


def ids(store: Store) -> set[str]:
    return set(store.records.ids())


def test_everything_goes_when_nobody_uses_it(store: Store, root: Path) -> None:
    one = layer(store, "one")
    layers = open_layers(store)
    layers.blob(one, Compression("gzip"))
    layers.directory(one)
    store.content.put(b"{}")
    store.cache.save("canonical", [Snapshot((one.id,))])
    removed = collect(store, EVERYTHING)
    assert {record.kind for record in removed} == {"regular", "internal"}
    assert ids(store) == set()
    assert list(store.content) == []
    assert os.listdir(root / "layers") == os.listdir(root / "work") == os.listdir(root / "ingest") == []
    assert store.cache.load("canonical", 0) is None
    assert disk_usage(store) == []
    assert store.verify() == []


def test_the_least_recently_used_goes_first_until_the_rest_fits(store: Store) -> None:
    old, older, new = layer(store, "old"), layer(store, "older"), layer(store, "new")
    used_at(store, 2e9, new)
    used_at(store, 2e8, old)
    used_at(store, 1e8, older)
    total = sum(record.size for record in disk_usage(store))
    collect(store, (Policy(max_used=total - 1),))
    assert ids(store) == {old.id, new.id}
    collect(store, (Policy(reserved=total // 3 + 10),))
    assert ids(store) == {new.id}


def test_what_lies_on_others_goes_before_them(store: Store) -> None:
    base, top = layer(store, "zz-base"), layer(store, "top")
    store.cache.save("canonical", [Snapshot((base.id, top.id))])
    used_at(store, 1e9, base, top)
    total = sum(record.size for record in disk_usage(store))
    collect(store, (Policy(max_used=total - 1),))
    assert ids(store) == {base.id}


def test_results_go_with_a_layer_below_them_and_chains_with_their_results(store: Store) -> None:
    base, middle, top, other = (layer(store, name) for name in ("base", "middle", "top", "other"))
    below = Snapshot((base.id,))
    store.cache.save("below", [below])
    store.cache.save("above", [below.on(middle.id).on(top.id)])
    store.cache.save("beside", [below.on(other.id), None, Snapshot()])
    collect(store, (Policy(filters=((Filter.parse("description=middle"),),)),))
    assert store.cache.load("above", 0) is None
    assert not store.cache.has("above")
    for canonical, chain in (("below", below), ("beside", below.on(other.id))):
        saved = store.cache.load(canonical, 0)
        assert saved is not None
        assert saved.snapshot == chain
    assert store.meta.query("SELECT layer FROM chains ORDER BY id") == [(base.id,), (other.id,)]
    collect(store, EVERYTHING)
    assert store.meta.query("SELECT * FROM chains") == []


def test_memos_that_nobody_asks_for_are_forgotten(store: Store) -> None:
    for namespace in ("layer-memo", "image"):
        store.cache.set_value(namespace, "old", b"{}")
        store.cache.set_value(namespace, "new", b"{}")
    with store.meta.transaction() as database:
        database.execute("UPDATE memo SET last_used = 1e9 WHERE key = 'old'")
    collect(store, (Policy(keep_s=3600.0),))
    assert store.cache.get_value("layer-memo", "old") is None
    assert store.cache.get_value("layer-memo", "new") is not None
    assert store.cache.get_value("image", "old") is not None


def test_chains_that_lead_nowhere_are_found_by_a_check(store: Store) -> None:
    one = layer(store, "one")
    store.cache.save("canonical", [Snapshot((one.id,))])
    assert store.verify() == []
    with store.meta.transaction() as database:
        database.execute("UPDATE chains SET below = 77")
        database.execute("INSERT INTO cache_results VALUES ('other', 0, 88, '', 0, 0)")
    problems = store.verify()
    assert ["77" in problems[0], "88" in problems[1], len(problems)] == [True, True, 2]


def test_what_was_used_lately_stays_with_an_age(store: Store) -> None:
    old, new = layer(store, "old"), layer(store, "new")
    used_at(store, 1e9, old)
    collect(store, (Policy(keep_s=3600.0),))
    assert ids(store) == {new.id}


@pytest.mark.parametrize(
    ("text", "gone"),
    [
        ("type=regular", {"one", "two"}),
        ("type=exec.cachemount", set()),
        ("description=one", {"one"}),
        ("description!=one", {"two"}),
        ("description~=^t", {"two"}),
        ("private", {"one", "two"}),
        ("shared", set()),
        ("mutable", set()),
    ],
)
def test_filters_choose(store: Store, text: str, gone: set[str]) -> None:
    layer(store, "one")
    layer(store, "two")
    removed = collect(store, (Policy(filters=((Filter.parse(text),),)),))
    assert {record.description for record in removed} == gone


def test_an_id_may_be_shortened(store: Store) -> None:
    one, two = layer(store, "one"), layer(store, "two")
    collect(store, (Policy(filters=((Filter.parse(f"id={one.id[:19]}"),),)),))
    assert ids(store) == {two.id}


def test_an_image_with_a_name_stays_until_all_is_asked_for(store: Store) -> None:
    one, other = layer(store, "one"), layer(store, "other")
    blob = open_layers(store).blob(one, Compression("gzip"))
    config = store.content.put(b'{"architecture": "amd64"}')
    manifest = {
        "config": {"digest": config},
        "layers": [{"digest": blob.digest, "size": blob.size, "mediaType": blob.media_type}],
    }
    digest = store.content.put(json.dumps(manifest).encode())
    store.cache.set_value("image", "docker.io/library/app:1", json.dumps({"digest": digest}).encode())
    collect(store, (Policy(),))
    assert ids(store) == {one.id}
    assert set(store.content) == {digest, config, blob.digest}
    collect(store, EVERYTHING)
    assert set(store.content) == set()
    assert store.cache.get_value("image", "docker.io/library/app:1") is None
    assert other.id not in ids(store)


def test_a_blob_of_two_layers_goes_with_the_last(store: Store) -> None:
    descriptor = Descriptor("application/vnd.oci.image.layer.v1.tar", "", 4)
    digest = store.content.put(b"blob")
    descriptor = Descriptor(descriptor.media_type, digest, 4)
    for name in ("x-1", "x-2"):
        store.records.add(name, size=4, description=name)
        store.records.add_blob(name, descriptor)
    collect(store, (Policy(filters=((Filter.parse("description=x-1"),),)),))
    assert set(store.content) == {digest}
    collect(store, (Policy(filters=((Filter.parse("description=x-2"),),)),))
    assert set(store.content) == set()


# what is in use -----------------------------------------------------------------------------------


def test_what_another_process_uses_stays(store: Store, root: Path) -> None:
    one, two, three = (layer(store, name) for name in ("one", "two", "three"))
    loose = store.content.put(b"document")
    store.cache.save("canonical", [Snapshot((two.id,))])
    with Store.open(root) as other:
        other.records.find(one.id)
        assert other.cache.load("canonical", 0) is not None
        assert other.content.has(loose)
        in_use = {record.id for record in disk_usage(store) if record.in_use}
        assert in_use == {one.id, two.id, loose}
        removed = collect(store, EVERYTHING)
        assert [record.id for record in removed] == [three.id]
        assert other.records.get(one.id)
        assert store.verify() == []
    collect(store, EVERYTHING)
    assert ids(store) == set()


def while_collecting(
    monkeypatch: pytest.MonkeyPatch, store: Store, work: Callable[[], object]
) -> list[object]:
    """Collect everything, and let another process begin `work` after the marks were read; its answer."""
    answers: list[object] = []
    thread = threading.Thread(target=lambda: answers.append(work()))
    drop = collecting._drop_rows

    def late(store: Store, layers: Sequence[str], blobs: set[str]) -> set[str]:
        thread.start()
        thread.join(0.1)
        assert thread.is_alive()  # what is not marked yet has to wait
        return drop(store, layers, blobs)

    monkeypatch.setattr(collecting, "_drop_rows", late)
    collect(store, EVERYTHING)
    thread.join()
    return answers


def test_who_looks_while_it_goes_finds_nothing(
    store: Store, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = layer(store, "one")
    digest = store.content.put(b"document")
    store.cache.save("canonical", [Snapshot((one.id,))])
    with Store.open(root) as other:

        def look() -> tuple[object, ...]:
            return other.content.has(digest), other.records.find(one.id), other.cache.load("canonical", 0)

        assert while_collecting(monkeypatch, store, look) == [(False, None, None)]
        assert store.verify() == []


def test_a_layer_made_again_meanwhile_stays(
    store: Store, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = layer(store, "one")
    open_layers(store).directory(one)
    with Store.open(root) as other:
        while_collecting(monkeypatch, store, lambda: layer(other, "one"))
        assert ids(store) == {one.id}
        assert set(os.listdir(store.layer_path(one.id))) == {"index", "tar"}
        assert store.verify() == []


def test_what_a_killed_process_used_is_free(store: Store, root: Path) -> None:
    one = layer(store, "one")
    program = """
import os, signal, sys
from pathlib import Path
from anyarch.store.store import Store
store = Store.open(Path(sys.argv[1]))
store.records.get(sys.argv[2])
os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", program, str(root), one.id], check=False)
    assert [record.id for record in collect(store, EVERYTHING)] == [one.id]


def test_a_collection_killed_between_rows_and_files_leaves_a_whole_store(root: Path) -> None:
    with Store.open(root) as store:
        layer(store, "one")
        open_layers(store).blob(layer(store, "two"), Compression("gzip"))
    program = """
import os, signal, sys
from pathlib import Path
from anyarch.store import collect
from anyarch.store.policy import Policy
from anyarch.store.store import Store
store = Store.open(Path(sys.argv[1]))
collect._move_away = lambda *args: os.kill(os.getpid(), signal.SIGKILL)
collect.collect(store, (Policy(all=True),))
"""
    done = subprocess.run([sys.executable, "-c", program, str(root)], check=False)
    assert done.returncode < 0
    with Store.open(root) as store:
        assert store.verify() == []
        assert ids(store) == set()
        for place in ("layers", "work", "ingest"):
            assert os.listdir(root / place) == []


def test_without_room_for_marks_nothing_is_collected(
    store: Store, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = layer(store, "one")
    with Store.open(root) as other:

        def full(*args: object) -> int:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(os, "pwrite", full)
            other.records.get(one.id)
        assert collect(store, EVERYTHING, wait=False) == []
    assert collect(store, EVERYTHING, wait=False) != []


def test_times_of_use_are_written_when_the_store_is_closed(store: Store, root: Path) -> None:
    one, two = layer(store, "one"), layer(store, "two")
    used_at(store, 1e9, one, two)
    with Store.open(root) as other:
        other.records.get(one.id)
    times = dict(store.meta.query("SELECT id, last_used FROM layers"))
    assert times[two.id] == 1e9
    assert times[one.id] > 1.7e9


def uses(store: Store) -> dict[str, int]:
    return {record.id: record.uses for record in disk_usage(store)}


def test_each_process_that_uses_a_thing_counts_once(store: Store, root: Path) -> None:
    with Store.open(root) as first:
        one, two = layer(first, "one"), layer(first, "two")
        blob = first.content.put(b"document")
    assert uses(store) == {one.id: 1, two.id: 1, blob: 1}
    for _ in range(2):
        with Store.open(root) as other:
            for _ in range(3):
                other.records.get(one.id)
                assert other.content.has(blob)
    assert uses(store) == {one.id: 3, two.id: 1, blob: 3}
    with Store.open(root) as other:
        other.verify()  # looks at all without using any
        disk_usage(other)
    assert uses(store) == {one.id: 3, two.id: 1, blob: 3}


def test_who_cannot_write_that_something_was_used_does_not_fail(
    store: Store, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = layer(store, "one")
    monkeypatch.setattr("anyarch.store.store._PATIENCE_S", 0.01)
    other = Store.open(root)
    other.records.get(one.id)
    with store.meta.transaction():  # the database is another writer's
        other.close()
    assert uses(store) == {one.id: 0}
    with Store.open(root):
        pass
    assert os.listdir(root / "locks") == [store.liveness.token]


# cache mounts -------------------------------------------------------------------------------------


def _mount(root: Path, name: str, size: int) -> Path:
    directory = root / "cache-mounts" / name
    directory.mkdir(parents=True)
    (directory / "file").write_bytes(b"x" * size)
    lock = Path(f"{directory}.lock")
    lock.write_text(f"/root/{name}")
    return directory


def test_a_cache_mount_goes_unless_a_step_has_it(store: Store, root: Path) -> None:
    free, busy = _mount(root, "free", 5000), _mount(root, "busy", 5000)
    records = {record.id: record for record in disk_usage(store)}
    assert records["cache-mounts/free"].kind == "exec.cachemount"
    assert records["cache-mounts/free"].description == "/root/free"
    assert records["cache-mounts/free"].size >= 5000
    with open(f"{busy}.lock", "rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        removed = collect(store, (Policy(filters=((Filter.parse("type=exec.cachemount"),),)),))
        assert [record.id for record in removed] == ["cache-mounts/free"]
        assert busy.is_dir()
    assert not free.exists()


# after builds -------------------------------------------------------------------------------------


def test_rules_that_are_given_stand_in_for_the_configured_ones(root: Path, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("[gc]\nenabled = false\n")
    with Store.open(root) as store:
        old = layer(store, "old", size=10_000)
    with Store.open(root) as store:
        used_at(store, 1e9, old)
        layer(store, "new", size=100)
        (removed,) = collect_after_build(store, {"policy": [{"keepDuration": 3600}]})
        assert removed.description == "old"


def test_after_a_build_the_configured_limit_holds(root: Path, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(
        '[gc]\nreservedSpace = 0\nmaxUsedSpace = "30kB"\nminFreeSpace = 0\n'
    )
    with Store.open(root) as store:
        layers = [layer(store, f"layer{number}", size=10_000) for number in range(8)]
    with Store.open(root) as store:
        for number, one in enumerate(layers):
            used_at(store, 1e9 + number, one)
        assert collect_after_build(store) == []  # nothing was added
        last = layer(store, "last", size=100)
        removed = collect_after_build(store)
        assert [record.description for record in removed] == [f"layer{number}" for number in range(6)]
        assert last.id in ids(store)
        layer(store, "more", size=50_000)
        assert collect_after_build(store) == []  # it looked a moment ago


def test_a_cap_holds_for_several_builds_together(root: Path, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text('[gc]\ncap = "60kB"\n')
    with Store.open(root) as one, Store.open(root) as two:
        made = 0
        with pytest.raises(NoSpace, match="cap"):
            for number in range(10):
                for store, name in ((one, "one"), (two, "two")):
                    layer(store, f"{name}{number}", size=8_000)
                    made += 1
                    assert sum(record.size for record in disk_usage(one)) <= 60 * 1024
        assert made > 3


def test_a_build_without_room_for_marks_does_not_wait_for_itself(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.toml").write_text('[gc]\ncap = "10kB"\n')

    def full(*args: object) -> int:
        raise OSError(28, "No space left on device")

    with Store.open(root) as store:
        with monkeypatch.context() as patch:
            patch.setattr(os, "pwrite", full)
            store.leases.hold("anything")
        with pytest.raises(NoSpace, match="cap"):
            layer(store, "large", size=20_000)


def test_a_cap_holds_while_a_build_runs(root: Path, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text('[gc]\ncap = "40kB"\n')
    with Store.open(root) as store:
        for number in range(3):
            layer(store, f"layer{number}", size=10_000)
    with Store.open(root) as store:
        layer(store, "new", size=10_000)
        assert sum(record.size for record in disk_usage(store)) <= 40 * 1024
        with pytest.raises(NoSpace, match="cap"):
            for number in range(4):
                layer(store, f"more{number}", size=10_000)


def test_what_would_pass_the_cap_is_refused_before_it_is_there(root: Path, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text('[gc]\ncap = "40kB"\n')
    with Store.open(root) as store:
        layer(store, "one", size=30_000)
        with pytest.raises(NoSpace, match="cap"):
            layer(store, "two", size=30_000)
        assert sum(record.size for record in disk_usage(store)) <= 40 * 1024
        layer(store, "three", size=5_000)
    with Store.open(root) as store:
        layer(store, "four", size=38_000)  # in place of what nobody uses any more
        assert sum(record.size for record in disk_usage(store)) <= 40 * 1024
