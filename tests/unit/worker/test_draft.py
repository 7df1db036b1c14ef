"""Drafts: what is seen through them, what they write."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from anyarch.archive.entry import Entry, Kind
from anyarch.errors import BuildError, PathNotFound
from anyarch.snapshot.view import View
from anyarch.worker.draft import Draft, bytes_content, clean

from .conftest import listing

if TYPE_CHECKING:
    from .conftest import Trees


def file(path: str) -> Entry:
    return Entry(path, Kind.FILE, 0o644, mtime_ns=10**9, size=1)


def test_removing_hides_what_is_below_and_putting_again_shows_only_the_new(trees: Trees) -> None:
    base = trees.tree({"d/old": b"1", "d/sub/older": b"2", "f": b"3"})
    draft = Draft(base)
    draft.remove("d")
    assert draft.get("d/old") is None
    assert draft.listdir("") == ["f"]
    draft.make_parents("d")
    draft.put(file("d/new"), bytes_content(b"n"))
    assert draft.listdir("d") == ["new"]
    assert listing(trees.above(base, draft)) == ["d d", "f d/new=n", "f f=3"]


def test_a_directory_made_again_hides_only_what_was_there_when_it_lies_on_another_base(trees: Trees) -> None:
    base = trees.tree({"d/old": b"1", "d/sub/older": b"2", "d/sub/kept": b"3", "f": b"4"})
    draft = Draft(base)
    draft.remove("d")
    draft.make_parents("d/sub")
    draft.put(file("d/sub/kept"), bytes_content(b"k"))
    draft.remove("f")
    draft.make_parents("f")
    with trees.layers.new_tar() as layer:
        draft.commit(layer)
        made = layer.commit()
    entries = list(trees.layers.index(made))
    assert [entry.path for entry in entries if entry.kind is Kind.WHITEOUT] == ["d/old", "d/sub/older"]
    assert not any(entry.opaque for entry in entries)
    other = trees.layers.get(trees.layer({"d/other": b"o", "d/sub/another": b"a", "f/inner": b"i"}))
    moved = View(trees.layers, [other, made])
    assert listing(moved) == [
        *("d d", "f d/other=o", "d d/sub", "f d/sub/another=a", "f d/sub/kept=k"),
        *("d f", "f f/inner=i"),
    ]


def test_a_whiteout_is_written_only_for_what_is_there(trees: Trees) -> None:
    base = trees.tree({"d/a": b"1", "d/b": b"2"})
    draft = Draft(base)
    draft.remove("d/a")
    draft.remove("d/missing")
    assert listing(trees.above(base, draft)) == ["d d", "f d/b=2"]


def test_a_symlink_loop_is_an_error(trees: Trees) -> None:
    with pytest.raises(PathNotFound, match="too many levels"):
        Draft(trees.tree({"a": "b", "b": "a"})).resolve("a/x")


def test_links_cannot_lead_out_of_the_root(trees: Trees) -> None:
    draft = Draft(trees.tree({"up": "../../../etc", "abs": "/etc/deep"}))
    assert draft.resolve("up/passwd") == "etc/passwd"
    assert draft.resolve("abs/x") == "etc/deep/x"
    assert draft.resolve("abs", last=False) == "abs"
    assert clean("/../../x/./y/..") == "x"


def test_a_file_cannot_be_a_parent(trees: Trees) -> None:
    with pytest.raises(BuildError, match="/f is not a directory"):
        Draft(trees.tree({"f": b""})).make_parents("f/x")


def test_a_fork_does_not_see_later_changes(trees: Trees) -> None:
    draft = Draft(None)
    draft.put(file("a"), bytes_content(b"1"))
    fork = draft.fork()
    draft.put(file("b"), bytes_content(b"2"))
    assert fork.listdir("") == ["a"]
    assert listing(trees.above(None, fork)) == ["f a=1"]


def test_of_several_names_of_a_file_the_first_in_order_holds_the_content(trees: Trees) -> None:
    draft = Draft(None)
    draft.put(file("z"), bytes_content(b"c"))
    draft.put(Entry("a", Kind.HARDLINK, linkname="z"))
    draft.put(Entry("m", Kind.HARDLINK, linkname="z"))
    made = trees.above(None, draft)
    assert listing(made) == ["f a=c", "f m=c", "f z=c"]
    kinds = [node.entry.kind for node in made.walk("") if node.entry.path]
    assert kinds == [Kind.FILE, Kind.HARDLINK, Kind.HARDLINK]


def test_the_same_changes_give_the_same_layer_on_bases_that_agree_where_it_matters(trees: Trees) -> None:
    ids = set()
    for other in (b"amd64", b"arm64"):
        draft = Draft(trees.tree({"usr/bin/tool": other}))
        draft.put(file("usr/bin/new"), bytes_content(b"n"))
        with trees.layers.new_tar() as layer:
            draft.commit(layer)
            ids.add(layer.commit().id)
        assert set(draft.facts) == {"usr", "usr/bin"}
    assert len(ids) == 1
