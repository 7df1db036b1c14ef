"""Views: what a chain of layers looks like, against a slow model and against the kernel."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import partial
from typing import TYPE_CHECKING, BinaryIO, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anyarch.archive.entry import Entry, Kind
from anyarch.errors import BlobNotFound, PathNotFound
from anyarch.snapshot.index import LayerIndex, sort_key
from anyarch.snapshot.layers import open_layers
from anyarch.snapshot.stack import Stack
from anyarch.snapshot.view import MergedTree, View
from anyarch.store.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from anyarch.snapshot.layers import Layer, LayerStore
    from anyarch.snapshot.stack import Leaf


class FakeTree(MergedTree):
    """Indexes from memory; the content of a file is its layer and path."""

    def __init__(self, *layers: list[Entry]) -> None:
        stack = Stack()
        for position in range(len(layers)):
            stack = stack.on(None, partial(self.load, position))
        super().__init__(stack)
        self.indexes = [LayerIndex(sorted(layer, key=lambda entry: sort_key(entry.path))) for layer in layers]
        self.loaded: set[int] = set()

    def load(self, position: int) -> LayerIndex:
        self.loaded.add(position)
        return self.indexes[position]

    def _open(self, position: int, entry: Entry) -> BinaryIO:
        raise AssertionError("not asked for")

    def _digest_files(self, position: int, entries: list[Entry]) -> dict[str, bytes]:
        return {entry.path: f"{position}{entry.path}".encode().ljust(32, b"\0") for entry in entries}


def d(path: str, mode: int = 0o755, *, opaque: bool = False) -> Entry:
    return Entry(path, Kind.DIRECTORY, mode, opaque=opaque)


def f(path: str, mode: int = 0o644) -> Entry:
    return Entry(path, Kind.FILE, mode)


def link(path: str, target: str) -> Entry:
    return Entry(path, Kind.SYMLINK, 0o777, linkname=target)


def gone(path: str) -> Entry:
    return Entry(path, Kind.WHITEOUT)


def _paths(tree: MergedTree, path: str = "") -> list[str]:
    return [node.entry.path for node in tree.walk(path)]


def test_upper_layers_cover_and_remove() -> None:
    tree = FakeTree(
        [d("a"), f("a/x"), f("a/y"), d("b"), f("b/z"), f("c")],
        [d("a", 0o700), f("a/x", 0o600), gone("a/y"), gone("b")],
        [d("a"), f("a/new")],
    )
    assert _paths(tree) == ["", "a", "a/new", "a/x", "c"]
    node = tree.lookup("/a/x")
    assert node is not None
    assert (node.entry.mode, node.position) == (0o600, 1)
    assert tree.lookup("a/y") is tree.lookup("b") is tree.lookup("b/z") is None
    assert tree.listdir("/a/") == ["new", "x"]


def test_an_opaque_directory_hides_what_is_below_it() -> None:
    tree = FakeTree(
        [d("a"), d("a/s"), f("a/s/x"), f("a/y")], [d("a", opaque=True), f("a/z")], [d("a"), f("a/w")]
    )
    assert _paths(tree) == ["", "a", "a/w", "a/z"]
    assert tree.lookup("a/s/x") is None


def test_a_directory_made_again_shows_only_the_new_content() -> None:
    tree = FakeTree([d("a"), f("a/x")], [gone("a")], [d("a"), f("a/y")])
    assert _paths(tree, "a") == ["a", "a/y"]


def test_a_file_over_a_directory_hides_the_tree_and_the_reverse() -> None:
    tree = FakeTree([d("a"), f("a/x")], [f("a")], [d("a"), f("a/y")])
    assert _paths(tree, "a") == ["a", "a/y"]
    assert FakeTree([d("a"), f("a/x")], [f("a")]).lookup("a/x") is None


def test_a_directory_without_an_entry_looks_as_below() -> None:
    tree = FakeTree([d("tmp", 0o1777)], [f("tmp/x"), f("new/deep/y")])
    node = tree.lookup("tmp")
    assert node is not None
    assert node.entry.mode == 0o1777
    assert tree.listdir("tmp") == ["x"]
    node = tree.lookup("new/deep")
    assert node is not None
    assert (node.entry.kind, node.entry.mode) == (Kind.DIRECTORY, 0o755)
    assert _paths(tree) == ["", "new", "new/deep", "new/deep/y", "tmp", "tmp/x"]
    over_file = FakeTree([f("a")], [f("a/x")])
    assert _paths(over_file) == ["", "a", "a/x"]


def test_the_root_can_have_an_entry() -> None:
    assert FakeTree([]).lookup("/") is not None
    tree = FakeTree([d("", 0o700), f("x")], [f("y")])
    node = tree.lookup("/")
    assert node is not None
    assert node.entry.mode == 0o700
    assert tree.listdir("") == ["x", "y"]


def test_links_stay_inside_the_root() -> None:
    tree = FakeTree(
        [
            d("usr"),
            d("usr/lib"),
            f("usr/lib/x"),
            link("lib", "usr/lib"),
            link("abs", "/lib"),
            link("out", "../../../usr"),
            link("usr/back", ".."),
            link("dangling", "no/where"),
            link("loop", "pool"),
            link("pool", "loop"),
        ]
    )
    assert tree.resolve("/abs/x") == "usr/lib/x"
    assert tree.resolve("out/lib") == "usr/lib"
    assert tree.resolve("usr/back/abs/../../usr") == "usr"
    assert tree.resolve("dangling/z") == "no/where/z"
    assert tree.resolve("../../..") == ""
    node = tree.lookup("lib/x")
    assert node is not None
    assert node.entry.path == "usr/lib/x"
    node = tree.lookup("abs")
    assert node is not None
    assert node.entry.kind is Kind.SYMLINK
    with pytest.raises(PathNotFound, match="symbolic links"):
        tree.resolve("loop")
    assert tree.lookup("loop") is not None
    assert tree.listdir("abs") == ["x"]
    for path in ("usr/lib/x", "none"):
        with pytest.raises(PathNotFound):
            tree.listdir(path)
    with pytest.raises(PathNotFound):
        tree.walk("none")


def test_what_an_upper_layer_answers_loads_nothing_below_it() -> None:
    tree = FakeTree([d("a"), f("a/x")], [d("b", opaque=True), f("b/y"), d("a"), f("a/z")])
    assert tree.lookup("b/y") is not None
    assert tree.lookup("a/z") is not None
    assert tree.listdir("b") == ["y"]
    assert tree.loaded == {1}
    assert tree.lookup("a/x") is not None
    assert tree.loaded == {0, 1}


def test_a_layer_that_cannot_be_loaded_is_asked_again_later() -> None:
    class Remote(FakeTree):
        remote = True

        def load(self, position: int) -> LayerIndex:
            if self.remote and position == 0:
                raise BlobNotFound("remote")
            return super().load(position)

    tree = Remote([d("a"), f("a/x")], [d("a"), f("a/y")])
    for _ in range(2):
        with pytest.raises(BlobNotFound):
            tree.lookup("a/x")
    tree.remote = False
    assert tree.lookup("a/x") is not None
    assert tree.listdir("a") == ["x", "y"]


def test_a_filter_keeps_parents_of_what_it_keeps() -> None:
    tree = FakeTree([d("a"), d("a/b"), f("a/b/x.c"), d("a/e"), f("a/e/x.h"), d("z"), f("z/x.c"), f("zz.c")])

    def keep(path: str, is_directory: bool) -> Literal["yes", "no", "descend"]:
        if is_directory:
            return "no" if path == "z" else "descend"
        return "yes" if path.endswith(".c") else "no"

    assert [node.entry.path for node in tree.walk("", keep=keep)] == ["", "a", "a/b", "a/b/x.c", "zz.c"]
    assert [node.entry.path for node in tree.walk("a", keep=keep)] == ["a", "a/b", "a/b/x.c"]
    assert tree.content_digest("", keep=keep) != tree.content_digest("")


def test_a_filter_gives_no_directory_of_another_branch() -> None:
    tree = FakeTree([d("a"), d("a/b"), d("c"), f("c/f")])
    paths = [n.entry.path for n in tree.walk("", keep=lambda path, is_dir: "descend" if is_dir else "yes")]
    assert paths == ["", "c", "c/f"]


def test_hard_links_stand_for_their_file() -> None:
    hard = Entry("b", Kind.HARDLINK, 0o600, linkname="a")
    tree = FakeTree([f("a", 0o600), hard], [gone("a")])
    node = tree.lookup("b")
    assert node is not None
    assert tree.target(node).entry.path == "a"
    plain = FakeTree([f("a", 0o600), f("b", 0o600)], [gone("a")])
    plain.indexes[0].learn({"b": b"0a".ljust(32, b"\0")})
    assert tree.content_digest("") == plain.content_digest("")
    assert tree.content_digest("b") == tree.content_digest("/b")
    lower = FakeTree([f("a")], [Entry("b", Kind.HARDLINK, linkname="a")])
    node = lower.lookup("b")
    assert node is not None
    assert lower.target(node).position == 0
    broken = FakeTree([Entry("b", Kind.HARDLINK, linkname="none")])
    node = broken.lookup("b")
    assert node is not None
    with pytest.raises(PathNotFound):
        broken.target(node)


def _digest(*entries: Entry) -> str:
    digests = {entry.path: b"c" * 32 for entry in entries if entry.kind is Kind.FILE and not entry.digest}
    tree = FakeTree(list(entries))
    tree.indexes[0].learn(digests)
    return tree.content_digest("")


def test_the_content_digest_sees_all_but_times_and_machine_attributes() -> None:
    base = [d("a"), Entry("a/f", Kind.FILE, 0o644, digest=b"1" * 32)]
    same = [
        Entry("a", Kind.DIRECTORY, 0o755, mtime_ns=5),
        Entry("a/f", Kind.FILE, 0o644, mtime_ns=9, digest=b"1" * 32, offset=512),
    ]
    assert _digest(*base) == _digest(*same)
    machine = Entry(
        "a/f", Kind.FILE, 0o644, digest=b"1" * 32, xattrs=(("security.selinux", b"x"), ("system.x", b""))
    )
    assert _digest(d("a"), machine) == _digest(*base)
    others = [
        Entry("a/g", Kind.FILE, 0o644, digest=b"1" * 32),
        Entry("a/f", Kind.FILE, 0o645, digest=b"1" * 32),
        Entry("a/f", Kind.FILE, 0o644, 1, digest=b"1" * 32),
        Entry("a/f", Kind.FILE, 0o644, 0, 1, digest=b"1" * 32),
        Entry("a/f", Kind.FILE, 0o644, digest=b"2" * 32),
        Entry("a/f", Kind.FILE, 0o644, digest=b"1" * 32, xattrs=(("security.capability", b"x"),)),
        Entry("a/f", Kind.FILE, 0o644, digest=b"1" * 32, xattrs=(("user.x", b"x"),)),
        Entry("a/f", Kind.FILE, 0o644, digest=b"1" * 32, xattrs=(("user.x", b"y"),)),
        Entry("a/f", Kind.SYMLINK, 0o644, linkname="x"),
        Entry("a/f", Kind.SYMLINK, 0o644, linkname="y"),
        Entry("a/f", Kind.CHAR_DEVICE, 0o644, major=1),
        Entry("a/f", Kind.CHAR_DEVICE, 0o644, minor=1),
        Entry("a/f", Kind.BLOCK_DEVICE, 0o644, minor=1),
        Entry("a/f", Kind.FIFO, 0o644),
        Entry("a/f", Kind.DIRECTORY, 0o644),
    ]
    digests = {_digest(d("a"), other) for other in others}
    assert len(digests | {_digest(*base)}) == len(others) + 1


def test_the_content_digest_does_not_depend_on_place_or_layers() -> None:
    one = FakeTree([d("a"), d("a/s"), Entry("a/s/f", Kind.FILE, digest=b"1" * 32)])
    two = FakeTree(
        [d("b"), f("b/old")], [gone("b")], [d("b"), d("b/s")], [Entry("b/s/f", Kind.FILE, digest=b"1" * 32)]
    )
    assert one.content_digest("a") == two.content_digest("b")
    assert one.content_digest("") != two.content_digest("")


def test_the_content_digest_follows_a_link_only_when_asked() -> None:
    tree = FakeTree([d("a"), link("l", "a")])
    assert tree.content_digest("l", follow=True) == tree.content_digest("a")
    assert tree.content_digest("l") != tree.content_digest("a")
    with pytest.raises(PathNotFound):
        tree.content_digest("none")


# -- against a model

_component = st.sampled_from(["a", "b", "c"])
_path = st.lists(_component, min_size=1, max_size=3).map("/".join)
_entry = st.builds(
    lambda path, kind, mode, opaque: Entry(path, kind, mode, opaque=opaque and kind is Kind.DIRECTORY),
    _path,
    st.sampled_from([Kind.FILE, Kind.DIRECTORY, Kind.DIRECTORY, Kind.WHITEOUT]),
    st.integers(0, 0o777),
    st.booleans(),
)


def _consistent(entries: list[Entry]) -> list[Entry]:
    """Only entries that can be in one layer together: nothing below what is no directory."""
    by_path = {entry.path: entry for entry in entries}
    kinds = {path: entry.kind for path, entry in by_path.items()}

    def possible(path: str) -> bool:
        parents = [path[:at] for at, character in enumerate(path) if character == "/"]
        return all(kinds.get(parent, Kind.DIRECTORY) is Kind.DIRECTORY for parent in parents)

    return [entry for path, entry in by_path.items() if possible(path)]


def _model(layers: list[list[Entry]]) -> dict[str, int]:
    """Path to mode of what is visible, by unpacking one layer after another into a dict."""
    tree: dict[str, tuple[bool, int]] = {}

    def clear(path: str) -> None:
        for known in [known for known in tree if known.startswith(path + "/")]:
            del tree[known]

    for layer in layers:
        for entry in sorted(layer, key=lambda entry: sort_key(entry.path)):
            # Directories that a layer needs exist as far as it is concerned, whiteouts' parents among them.
            for at, character in enumerate(entry.path):
                parent = entry.path[:at]
                if character == "/" and not tree.get(parent, (False, 0))[0]:
                    tree[parent] = (True, 0o755)
            if entry.kind is not Kind.DIRECTORY or entry.opaque:
                clear(entry.path)
            if entry.kind is Kind.WHITEOUT:
                tree.pop(entry.path, None)
            else:
                tree[entry.path] = (entry.kind is Kind.DIRECTORY, entry.mode)
    return {path: mode for path, (_, mode) in tree.items()}


@settings(max_examples=300)
@given(st.lists(st.lists(_entry, max_size=8).map(_consistent), min_size=1, max_size=5))
def test_a_view_shows_what_unpacking_in_order_would_leave(layers: list[list[Entry]]) -> None:
    tree = FakeTree(*layers)
    walked = {node.entry.path: node.entry.mode for node in tree.walk("") if node.entry.path}
    assert walked == _model(layers)
    paths = list(walked)
    assert paths == sorted(paths, key=sort_key)
    fresh = FakeTree(*layers)
    for path in {entry.path for layer in layers for entry in layer}:
        node = fresh.lookup(path)
        assert (node.entry.mode if node else None) == walked.get(path)


class Grown(FakeTree):
    """A tree that took over the blocks of another one, and has some layers above."""

    def __init__(self, below: FakeTree, *layers: list[Entry]) -> None:
        super().__init__(*layers)
        stack = below._stack
        for position in range(len(layers)):
            stack = stack.on(None, partial(self.load, position))
        MergedTree.__init__(self, stack)


@settings(max_examples=60)
@given(
    st.lists(st.lists(_entry, max_size=3).map(_consistent), min_size=16, max_size=40),
    st.lists(st.lists(_entry, max_size=3).map(_consistent), max_size=10),
)
def test_a_long_chain_whose_blocks_know_their_paths_shows_the_same(
    layers: list[list[Entry]], more: list[list[Entry]]
) -> None:
    paths = sorted({entry.path for layer in (*layers, *more) for entry in layer} | {"none", "a/none/b"})
    tree = FakeTree(*layers)
    expected = _model(layers)
    for _ in range(10):  # in vain often enough for the blocks to learn what is in them
        for path in paths:
            tree._floors.clear()
            node = tree.lookup(path)
            assert (node.entry.mode if node else None) == expected.get(path)
    grown = Grown(tree, *more)
    assert {n.entry.path: n.entry.mode for n in grown.walk("") if n.entry.path} == _model([*layers, *more])


def test_a_look_up_in_a_chain_of_thousands_of_layers_visits_few(monkeypatch: pytest.MonkeyPatch) -> None:
    visited = 0
    search = Stack.search

    def counted(self: Stack, path: str, above: Sequence[str]) -> Iterator[Leaf]:
        nonlocal visited
        for leaf in search(self, path, above):
            visited += 1
            yield leaf

    monkeypatch.setattr(Stack, "search", counted)
    tree = FakeTree([d("d", opaque=True)])
    counts = []
    for length in (500, 1000, 2000):
        while tree._stack.depth < length:
            number = tree._stack.depth
            assert tree.lookup("d") is not None
            assert tree.lookup(f"d/{number}") is None
            tree = Grown(tree, [d("d"), f(f"d/{number}")])
        counts.append(visited)
    assert counts[2] < 40 * 2000
    assert counts[2] - counts[1] < 3 * (counts[1] - counts[0])
    assert tree.lookup("d/7") is not None


# -- against the kernel


@pytest.fixture
def layers(tmp_path: Path) -> Iterator[LayerStore]:
    with Store.open(tmp_path / "store") as store:
        yield open_layers(store)


_MOUNT = """
import json, os, subprocess, sys
lowers, where, options = sys.argv[1:4]
options = f"ro,lowerdir={lowers}{options}"
subprocess.run(["mount", "-t", "overlay", "-o", options, "overlay", where], check=True)
found = {}
for parent, directories, files in os.walk(where):
    for name in directories + files:
        path = os.path.join(parent, name)
        status = os.lstat(path)
        found[os.path.relpath(path, where)] = [status.st_mode, status.st_uid, status.st_gid, status.st_size]
json.dump(found, sys.stdout)
"""


def _mounted(
    layers: LayerStore, chain: list[Layer], where: Path, kind: Literal["trusted", "user"]
) -> dict[str, object]:
    """What the kernel shows of the chain, in a mount namespace that ends with the process."""
    where.mkdir(exist_ok=True)
    lowers = ":".join(str(path) for path in reversed(layers.directories(chain, overlay=kind)))
    option = ",userxattr" if kind == "user" else ""
    done = subprocess.run(
        ["unshare", "-m", sys.executable, "-c", _MOUNT, lowers, str(where), option],
        check=True,
        stdout=subprocess.PIPE,
    )
    shown: dict[str, object] = json.loads(done.stdout)
    return shown


@pytest.mark.root
@pytest.mark.parametrize("kind", ["trusted", "user"])
def test_the_kernel_shows_the_same_tree(
    layers: LayerStore, tmp_path: Path, kind: Literal["trusted", "user"]
) -> None:
    if os.geteuid() != 0:
        pytest.skip("mounting an overlay needs root")
    contents: list[list[Entry]] = [
        [
            d("a"),
            f("a/x"),
            f("a/y"),
            d("b"),
            d("b/c"),
            f("b/c/deep"),
            d("tmp", 0o1777),
            Entry("o", Kind.FILE, 0o640, 7, 8),
        ],
        [d("a", 0o750), gone("a/y"), d("b", opaque=True), f("b/z", 0o4755), link("l", "a")],
        [f("tmp/implicit"), f("fresh/dir/file"), gone("o")],
        [
            d("o", 0o711),
            Entry("a/fifo", Kind.FIFO, 0o600),
            Entry("n", Kind.CHAR_DEVICE, 0o666, major=1, minor=3),
        ],
    ]
    chain = []
    for content in contents:
        with layers.new_tar() as tar:
            for entry in sorted(content, key=lambda entry: sort_key(entry.path)):
                tar.add(entry, b"")
            chain.append(tar.commit())
    view = View(layers, chain)
    formats = {
        Kind.FILE: 0o100000,
        Kind.DIRECTORY: 0o040000,
        Kind.SYMLINK: 0o120000,
        Kind.FIFO: 0o010000,
        Kind.CHAR_DEVICE: 0o020000,
    }
    expected = {
        node.entry.path: [node.entry.mode | formats[node.entry.kind], node.entry.uid, node.entry.gid]
        for node in view.walk("")
        if node.entry.path
    }
    shown = _mounted(layers, chain, tmp_path / "mnt", kind)
    assert {path: values[:3] for path, values in shown.items()} == expected  # type: ignore[index]
    assert expected["tmp"][0] & 0o7777 == 0o1777
