"""Opening a store: what the dead left goes, what the living do stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from anyarch.errors import StoreError
from anyarch.store.liveness import Liveness, owner_of
from anyarch.store.store import Store, default_root
from anyarch.store.tree import move_tree, remove_tree


def _names(root: Path, place: str) -> list[str]:
    return sorted(os.listdir(root / place))


def _die_with_work_in_progress(root: Path) -> None:
    """A process that has written half a blob and half a directory, and is killed."""
    program = """
import os, signal, sys
from pathlib import Path
from anyarch.store.store import Store
store = Store.open(Path(sys.argv[1]))
writer = store.content.writer()
writer.write(b"half")
work = store.work_dir()
(work / "closed").mkdir()
(work / "closed" / "file").write_bytes(b"x")
(work / "closed").chmod(0)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", program, str(root)], check=False)
    assert done.returncode == -signal.SIGKILL


def test_the_root_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANYARCH_ROOT", "/srv/any")
    monkeypatch.setenv("XDG_DATA_HOME", "/home/u/data")
    assert default_root() == Path("/srv/any")
    monkeypatch.delenv("ANYARCH_ROOT")
    assert default_root() == Path("/home/u/data/anyarch")
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setenv("HOME", "/home/u")
    assert default_root() == Path("/home/u/.local/share/anyarch")


def test_a_process_that_ends_while_it_is_asked_for_is_not_named_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ending, asking = Liveness(tmp_path), Liveness(tmp_path)
    listdir = os.listdir

    def ends_then(path: str) -> list[str]:
        found = listdir(path)
        ending.close(cleared=True)
        return found

    monkeypatch.setattr(os, "listdir", ends_then)
    assert asking.dead(set()) == []
    assert listdir(tmp_path) == [asking.token]
    asking.close(cleared=True)


def test_a_closed_store_leaves_no_trace_of_the_process(tmp_path: Path) -> None:
    root = tmp_path / "deep" / "store"
    with Store.open(root) as store:
        store.content.put(b"x")
        assert len(_names(root, "locks")) == 1
    assert _names(root, "locks") == _names(root, "ingest") == _names(root, "work") == []
    store.close()  # again


def test_what_a_killed_process_left_is_gone_after_the_next_open(tmp_path: Path) -> None:
    root = tmp_path / "store"
    _die_with_work_in_progress(root)
    assert _names(root, "ingest")
    assert _names(root, "work")
    with Store.open(root) as store:
        assert _names(root, "ingest") == _names(root, "work") == []
        assert len(_names(root, "locks")) == 1
        assert list(store.content) == []


def test_what_a_live_process_does_is_left_alone(tmp_path: Path) -> None:
    root = tmp_path / "store"
    with Store.open(root) as alive:
        writer = alive.content.writer()
        writer.write(b"half")
        work = alive.work_dir()
        _die_with_work_in_progress(root)
        with Store.open(root):
            assert len(_names(root, "ingest")) == 1
            assert _names(root, "work") == [work.name]
        assert len(_names(root, "locks")) == 1
        writer.write(b" whole")
        assert alive.content.read(writer.commit()) == b"half whole"
        work.rmdir()


def test_closing_removes_what_was_left_unfinished(tmp_path: Path) -> None:
    root = tmp_path / "store"
    with Store.open(root) as store:
        (store.work_dir() / "file").write_bytes(b"x")
        writer = store.content.writer()
        writer.write(b"half")
    assert [_names(root, place) for place in ("work", "ingest", "locks")] == [[], [], []]
    writer.discard()


def test_what_cannot_be_removed_is_kept_for_later(tmp_path: Path) -> None:
    root = tmp_path / "store"
    _die_with_work_in_progress(root)

    def refuse(path: str) -> None:
        if "/work/" in path:
            raise PermissionError("files of other ids")
        remove_tree(path)

    with Store.open(root, remove=refuse) as store:
        assert [os.path.dirname(path) for path in store.leftovers] == [str(root / "work")]
    with Store.open(root) as store:
        assert store.leftovers == []
        assert _names(root, "work") == []


def test_a_form_without_a_row_is_an_orphan_and_goes(tmp_path: Path) -> None:
    root = tmp_path / "store"
    with Store.open(root) as store:
        store.records.add("x-1", size=1)
    for orphan in ("x-1/tar", "x-1/dir/file", "x-2/index"):
        path = root / "layers" / orphan
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    (root / "layers" / "x-1" / "digests").write_bytes(b"")
    with Store.open(root):  # nobody died: nothing is looked for
        assert _names(root, "layers") == ["x-1", "x-2"]
    _die_with_work_in_progress(root)
    with Store.open(root):
        assert _names(root, "layers") == ["x-1"]
        assert _names(root, "layers/x-1") == ["digests"]
        assert _names(root, "work") == []


def test_layers_go_with_a_database_that_was_removed(tmp_path: Path) -> None:
    root = tmp_path / "store"
    with Store.open(root) as store:
        store.cache.set_value("a", "b", b"c")
        (root / "layers" / "x-1").mkdir()
    for name in ("anyarch.db", "anyarch.db-wal", "anyarch.db-shm"):
        (root / name).unlink(missing_ok=True)
    with Store.open(root):
        assert _names(root, "layers") == []


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError) as caught:
        Store.open(tmp_path / "file" / "store")
    assert str(tmp_path / "file" / "store") in caught.value.message


def test_a_lock_made_but_not_yet_held_does_not_kill_its_owner(tmp_path: Path) -> None:
    first = Liveness(tmp_path)
    second = Liveness(tmp_path)
    assert first.dead(set()) == second.dead(set()) == []
    second.close(cleared=True)
    first.close(cleared=True)
    assert os.listdir(tmp_path) == []


def test_two_cleaners_exclude_one_another(tmp_path: Path) -> None:
    (tmp_path / "1-dead").write_bytes(b"")
    first = Liveness(tmp_path)
    second = Liveness(tmp_path)
    (owner,) = first.dead({"2-unlocked"})[:1]
    assert owner.token == "1-dead"
    assert [other.token for other in second.dead(set())] == []
    for other in (first, second):
        other.close(cleared=True)
    owner.release(cleared=True)


def test_a_name_tells_its_owner() -> None:
    assert owner_of("12-ab.7") == "12-ab"


def test_a_tree_of_any_depth_and_mode_is_removed(tmp_path: Path) -> None:
    top = tmp_path / "top"
    top.mkdir()
    here = os.open(top, os.O_RDONLY)
    for level in range(300):  # a path of it all would be too long for the kernel
        name = f"{level:040}"
        os.mkdir(name, dir_fd=here)
        below = os.open(name, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=here))
    os.fchmod(here, 0)
    os.close(here)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_bytes(b"")
    (top / "link").symlink_to(outside)
    remove_tree(top)
    remove_tree(top)
    assert not top.exists()
    assert (outside / "kept").exists()
    remove_tree(outside / "kept")
    assert os.listdir(outside) == []


def test_moving_a_tree_keeps_its_mode(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir(mode=0o555)
    (tmp_path / "b").mkdir()
    move_tree(tmp_path / "a", tmp_path / "b" / "a")
    assert (tmp_path / "b" / "a").stat().st_mode & 0o7777 == 0o555
    with pytest.raises(FileNotFoundError):
        move_tree(tmp_path / "a", tmp_path / "b" / "c")
