"""The index: what goes in comes out, whatever the names are."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyarch.archive.entry import Entry, Kind
from anyarch.errors import StoreError
from anyarch.snapshot.index import LayerIndex, decode_index, encode_index, fold_sorted, sort_key

_names = st.binary(min_size=1, max_size=6).map(
    lambda raw: raw.replace(b"/", b"_").replace(b"\0", b"_").decode("utf-8", "surrogateescape")
)
_paths = st.lists(_names, min_size=1, max_size=4).map("/".join)


def _index(*entries: Entry) -> LayerIndex:
    return LayerIndex(sorted(entries, key=lambda entry: sort_key(entry.path)))


@given(st.lists(_paths, unique=True, max_size=12), _names, st.binary(max_size=4))
def test_an_index_comes_back_as_it_was(paths: list[str], target: str, value: bytes) -> None:
    entries = [
        Entry(
            path, Kind.SYMLINK, 0o777, 1, 2, -5, 0, target, 3, 4, ((f"user.{target}", value),), False, b"", 7
        )
        for path in sorted(paths, key=sort_key)
    ]
    index = decode_index(encode_index(entries))
    assert list(index) == entries
    assert index.implicit == LayerIndex(entries).implicit


@given(st.binary(max_size=60))
def test_damaged_bytes_are_a_store_error_or_still_an_index(raw: bytes) -> None:
    good = encode_index([Entry("a", Kind.FILE)])
    for bad in (raw, good[:24] + raw, good + raw):
        with suppress(StoreError):
            assert isinstance(decode_index(bad), LayerIndex)
    for bad in (b"", good[:-1], good[:10], b"x" + good[1:]):
        with pytest.raises(StoreError):
            decode_index(bad)


def test_children_are_sorted_and_include_directories_without_an_entry() -> None:
    index = _index(
        Entry("", Kind.DIRECTORY),
        Entry("b", Kind.DIRECTORY),
        Entry("b/x", Kind.WHITEOUT),
        Entry("b.c", Kind.FILE),
        Entry("a/deep/file", Kind.FILE),
    )
    assert index.children("") == ["a", "b", "b.c"]
    assert index.children("b") == ["x"]
    assert index.children("a") == ["deep"]
    assert index.children("b.c") == index.children("none") == []
    assert index.implicit == {"a", "a/deep"}
    assert not index.has_opaque


def test_below_gives_a_subtree_and_nothing_beside_it() -> None:
    index = _index(*(Entry(path, Kind.FILE) for path in ("a", "a/x", "a/x/y", "a b", "a-", "a.x", "ab", "b")))
    assert [entry.path for entry in index.below("a")] == ["a", "a/x", "a/x/y"]
    assert [entry.path for entry in index.below("a/x")] == ["a/x", "a/x/y"]
    assert [entry.path for entry in index.below("zz")] == []
    assert len(list(index.below(""))) == len(index) == 8


def test_digests_learned_later_are_kept_by_position() -> None:
    entries = [Entry("a", Kind.FILE, size=1), Entry("b", Kind.DIRECTORY), Entry("c", Kind.FILE, size=1)]
    index = LayerIndex(entries)
    index.learn({"c": b"c" * 32, "b": b"b" * 32, "none": b"n" * 32})
    again = LayerIndex(entries)
    again.unpack_digests(index.pack_digests())
    assert [entry.digest for entry in again] == [b"", b"", b"c" * 32]
    again = LayerIndex(entries[:1])
    again.unpack_digests(index.pack_digests() + b"cut")
    again.unpack_digests(index.pack_digests())
    assert [entry.digest for entry in again] == [b""]


def test_entries_out_of_order_or_double_are_folded() -> None:
    a, b = Entry("a", Kind.FILE, size=1), Entry("b", Kind.FILE)
    assert fold_sorted([a, b]) == [a, b]
    assert fold_sorted([b, a]) == [a, b]
    later = Entry("a", Kind.FILE, size=2)
    assert fold_sorted([a, later]) == [later]
    opaque = [Entry("d", Kind.DIRECTORY), Entry("d", Kind.WHITEOUT, opaque=True)]
    assert [(entry.kind, entry.opaque) for entry in fold_sorted(opaque)] == [(Kind.DIRECTORY, True)]
