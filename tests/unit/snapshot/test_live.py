"""A tree that a step changes is looked into from outside: as the step sees it, and never beyond it."""

from __future__ import annotations

import os
import stat
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anyarch.errors import PathNotFound
from anyarch.snapshot.live import LiveTree
from anyarch.snapshot.view import View
from anyarch.store.store import Store
from anyarch.worker.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anyarch.snapshot.layers import LayerStore
    from anyarch.snapshot.tree import TreeView

OPAQUE = "user.overlay.opaque"
NOTHING = View(cast("LayerStore", None), [])


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[TreeView]:
    with Store.open(tmp_path / "store") as store:
        yield Worker(store, lambda event: None).view(None)


@pytest.fixture
def base(tmp_path: Path) -> Iterator[TreeView]:
    """usr/a, usr/b, etc/conf, link -> usr."""
    from anyarch.archive.entry import Entry, Kind
    from anyarch.worker.result import SnapshotResult

    with Store.open(tmp_path / "base") as store:
        worker = Worker(store, lambda event: None)
        with worker.layers.new_tar() as layer:
            for path in ("etc", "usr"):
                layer.add(Entry(path, Kind.DIRECTORY, 0o755))
            layer.add(Entry("etc/conf", Kind.FILE, 0o640, size=2), b"e\n")
            layer.add(Entry("link", Kind.SYMLINK, 0o777, linkname="usr"))
            layer.add(Entry("usr/a", Kind.FILE, 0o644, size=2), b"a\n")
            layer.add(Entry("usr/b", Kind.FILE, 0o644, size=2), b"b\n")
            made = layer.commit()
        yield worker.view(SnapshotResult((made.id,)))


@pytest.fixture
def upper(tmp_path: Path) -> Path:
    path = tmp_path / "upper"
    path.mkdir()
    return path


def read(tree: LiveTree, path: str) -> bytes:
    return tree.read(path, 0, 1000)


def names(tree: LiveTree, path: str) -> list[str]:
    return [name for name, _ in tree.listdir(path)]


def test_before_the_first_process_the_base_is_shown(base: TreeView) -> None:
    tree = LiveTree(None, base, opaque=OPAQUE)
    assert names(tree, "/") == ["etc", "link", "usr"]
    assert read(tree, "/link/a") == b"a\n"
    assert tree.read("usr/a", 1, 1) == b"\n"
    conf = tree.stat("/etc/conf")
    assert (stat.filemode(conf.mode), conf.size) == ("-rw-r-----", 2)


def test_what_the_step_wrote_covers_the_base(base: TreeView, upper: Path) -> None:
    (upper / "usr").mkdir()
    (upper / "usr/a").write_bytes(b"new\n")
    (upper / "usr/c").write_bytes(b"c\n")
    tree = LiveTree(upper, base, opaque=OPAQUE)
    assert names(tree, "/usr") == ["a", "b", "c"]
    assert [read(tree, f"/link/{name}") for name in "abc"] == [b"new\n", b"b\n", b"c\n"]
    assert names(tree, "") == ["etc", "link", "usr"]


@pytest.mark.root
def test_what_the_step_removed_is_gone(base: TreeView, upper: Path) -> None:
    (upper / "usr").mkdir()
    os.mknod(upper / "usr/a", stat.S_IFCHR, 0)
    os.mknod(upper / "etc", stat.S_IFCHR, 0)
    tree = LiveTree(upper, base, opaque=OPAQUE)
    assert names(tree, "/") == ["link", "usr"]
    assert names(tree, "/usr") == ["b"]
    for path in ("/usr/a", "/etc", "/etc/conf"):
        with pytest.raises(PathNotFound, match="no such file"):
            tree.stat(path)


def test_directory_that_was_made_anew_hides_the_one_below(base: TreeView, upper: Path) -> None:
    (upper / "usr").mkdir()
    try:
        os.setxattr(upper / "usr", OPAQUE, b"y")
    except OSError:
        pytest.skip("the file system of the temporary directory has no user attributes")
    (upper / "etc").write_bytes(b"a file now")
    tree = LiveTree(upper, base, opaque=OPAQUE)
    assert names(tree, "/usr") == []
    with pytest.raises(PathNotFound, match="not a directory"):
        tree.stat("/etc/conf")


def test_links_lead_nowhere_but_inside(empty: TreeView, upper: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").write_bytes(b"secret")
    (upper / "d").mkdir()
    (upper / "d/file").write_bytes(b"inside")
    os.symlink("file", upper / "d/near")
    os.symlink("../d/near", upper / "d/far")
    os.symlink(str(tmp_path / "outside"), upper / "absolute")
    os.symlink("../outside", upper / "above")
    os.symlink("..", upper / "up")
    os.symlink("loop", upper / "loop")
    tree = LiveTree(upper, empty, opaque=OPAQUE)
    assert read(tree, "/d/far") == b"inside"
    assert stat.S_ISREG(tree.stat("/d/far").mode)
    for path in ("/absolute", "/above", "/up/outside", "../outside", "/d/../../outside", "/up/up/outside"):
        with pytest.raises(PathNotFound, match="escapes"):
            read(tree, path)
    # As BuildKit has it: what would lead out is told as the link that it is, for the client to resolve.
    assert tree.stat("/absolute").linkname == str(tmp_path / "outside")
    assert stat.S_ISLNK(tree.stat("/above").mode)
    with pytest.raises(PathNotFound, match="too many levels"):
        tree.stat("/loop")


def test_only_regular_files_are_read(empty: TreeView, upper: Path) -> None:
    os.mkfifo(upper / "pipe")
    (upper / "d").mkdir()
    tree = LiveTree(upper, empty, opaque=OPAQUE)
    for path in ("/pipe", "/d", "/"):
        with pytest.raises(PathNotFound, match="not a regular file"):
            read(tree, path)
    with pytest.raises(PathNotFound, match="not a directory"):
        tree.listdir("/pipe")
    for path in ("/a\0b", "/" + "x" * 300, "/pipe/x", "/d/absent"):
        with pytest.raises(PathNotFound):
            tree.stat(path)


def test_swapping_a_directory_for_a_link_never_leads_out(
    empty: TreeView, upper: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "f").write_bytes(b"secret")
    (upper / "real").mkdir()
    (upper / "real/f").write_bytes(b"inside")
    os.symlink(outside, upper / "evil")
    os.symlink("real", upper / "d")
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            for target in ("evil", "real"):
                os.symlink(target, upper / "next")
                os.rename(upper / "next", upper / "d")
                os.symlink(outside if target == "evil" else "real", upper / "next")
                os.rename(upper / "next", upper / "d")

    thread = threading.Thread(target=swap)
    thread.start()
    seen = set()
    try:
        tree = LiveTree(upper, empty, opaque=OPAQUE)
        for _ in range(3000):
            try:
                seen.add(read(tree, "/d/f"))
            except PathNotFound:
                seen.add(b"refused")
    finally:
        stop.set()
        thread.join()
    assert b"secret" not in seen


_NAMES = st.sampled_from(["a", "b", "d", "..", ".", "", "outside"])
_PATHS = st.lists(_NAMES, max_size=6).map("/".join)
_LINKS = st.builds("{}{}".format, st.sampled_from(["", "/", "../"]), _PATHS).filter(bool)


@settings(max_examples=150, deadline=None)
@given(
    links=st.dictionaries(st.sampled_from(["a", "d/a", "d/b", "d/d/b"]), _LINKS, max_size=4),
    path=st.builds("{}{}".format, st.sampled_from(["", "/", "../"]), _PATHS),
)
def test_what_is_read_lies_inside_whatever_links_there_are(links: dict[str, str], path: str) -> None:
    with tempfile.TemporaryDirectory() as where:
        root = Path(where) / "upper"
        (root / "d/d").mkdir(parents=True)
        (Path(where) / "outside").write_bytes(b"secret")
        for name in ("b", "d/d/a"):
            (root / name).write_bytes(name.encode())
        for name, target in links.items():
            os.symlink(target, root / name)
        tree = LiveTree(root, NOTHING, opaque=OPAQUE)
        try:
            found = read(tree, path)
        except PathNotFound:
            return
        real = os.path.realpath(f"{root}/{path}")
        assert real.startswith(f"{root}/")
        assert found == Path(real).read_bytes()
        assert tree.stat(path).size == len(found)
