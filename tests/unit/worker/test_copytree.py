"""What COPY makes of sources and destinations (the path rules of the Dockerfile reference)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from anyarch.archive.entry import Entry, Kind
from anyarch.errors import BuildError, PathNotFound
from anyarch.llb.ops import ActionCopy
from anyarch.spec.pattern import PatternMatcher
from anyarch.worker.copytree import Copier, source_paths
from anyarch.worker.draft import Draft

from .conftest import listing

if TYPE_CHECKING:
    from anyarch.snapshot.view import View

    from .conftest import Trees

SOURCE: dict[str, Any] = {
    "a.txt": b"A",
    "b.txt": b"B",
    "d/x": b"X",
    "d/sub/y": b"Y",
    "link": "a.txt",
    "dlink": "d",
}


def copy(trees: Trees, base: View | None, src: str, dest: str, *, owner: Any = None, **more: Any) -> View:
    """As the Dockerfile frontend asks for it."""
    action = ActionCopy(
        src,
        dest,
        follow_symlink=True,
        dir_copy_contents=True,
        create_dest_path=True,
        allow_wildcard=True,
        allow_empty_wildcard=True,
        **more,
    )
    tree = trees.tree(SOURCE)
    draft = Draft(base)
    copier = Copier(draft, tree, action, owner, patterns=PatternMatcher)
    for path in source_paths(tree, action):
        copier.copy(path)
    return trees.above(base, draft)


@pytest.mark.parametrize(
    ("src", "dest", "expected"),
    [
        ("a.txt", "/new", ["f new=A"]),
        ("a.txt", "/new/", ["d new", "f new/a.txt=A"]),
        ("a.txt", "/p/q/new", ["d p", "d p/q", "f p/q/new=A"]),
        ("/a.txt", "/", ["f a.txt=A"]),
        ("../../a.txt", "/", ["f a.txt=A"]),
        ("d", "/new", ["d new", "d new/sub", "f new/sub/y=Y", "f new/x=X"]),
        ("d/", "/new/", ["d new", "d new/sub", "f new/sub/y=Y", "f new/x=X"]),
        ("*.txt", "/t/", ["d t", "f t/a.txt=A", "f t/b.txt=B"]),
        ("[!a].txt", "/t/", ["d t", "f t/a.txt=A"]),  # in Go only ^ negates
        ("[^a].txt", "/t/", ["d t", "f t/b.txt=B"]),
        ("nothing*", "/t/", []),
        ("d/*", "/t/", ["d t", "f t/x=X", "f t/y=Y"]),
        ("link", "/t/", ["d t", "f t/link=A"]),
        ("dlink", "/t", ["d t", "d t/sub", "f t/sub/y=Y", "f t/x=X"]),
        (".", "/t", ["d t", "f t/a.txt=A", "f t/b.txt=B", "d t/d", "d t/d/sub", "f t/d/sub/y=Y", "f t/d/x=X",
                     "l t/dlink->d", "l t/link->a.txt"]),
    ],
)  # fmt: skip
def test_sources_and_destinations_on_scratch(trees: Trees, src: str, dest: str, expected: list[str]) -> None:
    assert listing(copy(trees, None, src, dest)) == expected


def test_a_file_goes_into_an_existing_directory_under_its_own_name(trees: Trees) -> None:
    base = trees.tree({"dir/old": b"o"})
    assert listing(copy(trees, base, "a.txt", "/dir")) == ["d dir", "f dir/a.txt=A", "f dir/old=o"]


def test_a_directory_merges_into_an_existing_one_and_files_are_replaced(trees: Trees) -> None:
    base = trees.tree({"dir/x": b"old", "dir/keep": b"k"})
    assert listing(copy(trees, base, "d", "/dir")) == [
        "d dir",
        "f dir/keep=k",
        "d dir/sub",
        "f dir/sub/y=Y",
        "f dir/x=X",
    ]


def test_the_destination_directory_keeps_its_mode_and_owner(trees: Trees) -> None:
    base = trees.tree({"dir/": Entry("dir", Kind.DIRECTORY, 0o700, 7, 8, mtime_ns=10**9)})
    node = copy(trees, base, "d", "/dir").lookup("dir")
    assert node is not None
    assert (node.entry.mode, node.entry.uid, node.entry.gid) == (0o700, 7, 8)


def test_a_symlink_in_the_destination_is_followed_inside_the_root(trees: Trees) -> None:
    base = trees.tree({"real/": b"", "to": "/real", "out": "../../real"})
    assert listing(copy(trees, base, "a.txt", "/to/"))[1:] == ["d real", "f real/a.txt=A", "l to->/real"]
    assert "f real/b=B" in listing(copy(trees, base, "b.txt", "/out/b"))


def test_kinds_that_do_not_fit_are_errors(trees: Trees) -> None:
    with pytest.raises(BuildError, match="cannot copy to non-directory"):
        copy(trees, trees.tree({"f": b"1"}), "d", "/f")
    with pytest.raises(BuildError, match="cannot replace to directory"):
        copy(trees, trees.tree({"dir/x/": b""}), "d", "/dir")
    with pytest.raises(PathNotFound, match="lstat /missing: no such file or directory"):
        copy(trees, None, "missing", "/")


def test_chmod_reaches_files_directories_and_the_parents_it_makes(trees: Trees) -> None:
    tree = copy(trees, None, "a.txt", "/new/", mode=0o600)
    assert [node.entry.mode for node in tree.walk("") if node.entry.path] == [0o600, 0o600]


def test_symbolic_chmod_leaves_made_parents_alone(trees: Trees) -> None:
    tree = copy(trees, None, "d", "/p/q", mode_str="u=rwX,go=")
    modes = {node.entry.path: node.entry.mode for node in tree.walk("") if node.entry.path}
    assert modes == {"p": 0o755, "p/q": 0o755, "p/q/sub": 0o700, "p/q/sub/y": 0o600, "p/q/x": 0o600}


def test_chown_reaches_everything_including_made_parents(trees: Trees) -> None:
    tree = copy(trees, None, "d", "/p/q", owner=(5, 6))
    assert {(n.entry.uid, n.entry.gid) for n in tree.walk("") if n.entry.path} == {(5, 6)}


def test_exclude_is_relative_to_the_source_and_never_drops_a_file_named_itself(trees: Trees) -> None:
    assert listing(copy(trees, None, "d", "/t", exclude_patterns=("sub",))) == ["d t", "f t/x=X"]
    assert listing(copy(trees, None, "d", "/t", exclude_patterns=("**", "!sub/y"))) == [
        "d t",
        "d t/sub",
        "f t/sub/y=Y",
    ]
    assert listing(copy(trees, None, "a.txt", "/t", exclude_patterns=("a.txt",))) == ["f t=A"]


def test_directories_that_are_made_or_carried_take_the_newest_time_of_what_lies_below(trees: Trees) -> None:
    base = trees.tree({"usr/bin/": b""})
    tree = copy(trees, base, "a.txt", "/usr/bin/new/a")
    times = {node.entry.path: node.entry.mtime_ns for node in tree.walk("") if node.entry.path}
    assert set(times.values()) == {5 * 10**9}


def test_hard_links_stay_hard_links_and_links_out_of_the_source_become_files(trees: Trees) -> None:
    layer = {
        "in/one": b"1",
        "in/two": Entry("in/two", Kind.HARDLINK, linkname="in/one"),
        "out/three": Entry("out/three", Kind.HARDLINK, linkname="in/one"),
    }
    tree = trees.tree(layer)
    action = ActionCopy("in", "/t", dir_copy_contents=True, create_dest_path=True)
    draft = Draft(None)
    Copier(draft, tree, action, None, patterns=PatternMatcher).copy("in")
    other = ActionCopy("out", "/u", dir_copy_contents=True, create_dest_path=True)
    Copier(draft, tree, other, None, patterns=PatternMatcher).copy("out")
    made = trees.above(None, draft)
    kinds = {node.entry.path: node.entry.kind for node in made.walk("")}
    assert (kinds["t/one"], kinds["t/two"], kinds["u/three"]) == (Kind.FILE, Kind.HARDLINK, Kind.FILE)
    assert listing(made) == ["d t", "f t/one=1", "f t/two=1", "d u", "f u/three=1"]
