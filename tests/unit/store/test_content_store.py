"""Blobs: complete under their digest, or not there at all."""

from __future__ import annotations

import errno
import hashlib
import os
from typing import TYPE_CHECKING

import pytest

from anyarch.errors import BlobNotFound, DigestMismatch, InvalidDigest, NoSpace, StoreError
from anyarch.spec.digest import Digest
from anyarch.store.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store") as store:
        yield store


def test_a_blob_is_found_by_its_digest(store: Store) -> None:
    digest = store.content.put(b"hello")
    assert digest == Digest.of(b"hello")
    assert store.content.has(digest)
    assert store.content.size(digest) == 5
    assert store.content.read(digest) == b"hello"
    with store.content.open(digest) as file:
        assert file.read() == b"hello"
    assert store.content.path(digest).read_bytes() == b"hello"
    assert list(store.content) == [digest]


def test_a_blob_that_is_not_there_is_an_error_of_its_own(store: Store) -> None:
    digest = Digest.of(b"nothing")
    assert not store.content.has(digest)
    for ask in (store.content.open, store.content.size, store.content.read):
        with pytest.raises(BlobNotFound) as caught:
            ask(digest)
        assert digest in caught.value.message
        assert caught.value.hint


def test_foreign_text_never_becomes_a_path(store: Store) -> None:
    for text in ("sha256:../../etc/passwd", "../x", "sha256", ""):
        with pytest.raises(InvalidDigest):
            store.content.has(text)


def test_a_writer_counts_and_digests_what_it_is_given(store: Store) -> None:
    with store.content.writer() as writer:
        assert writer.write(b"ab") == 2
        assert writer.write(memoryview(b"cd")) == 2
        assert writer.write(bytearray(b"")) == 0
        assert writer.offset == 4
        assert writer.commit() == Digest.of(b"abcd")


def test_leaving_a_writer_without_commit_leaves_nothing(store: Store) -> None:
    with store.content.writer() as writer:
        writer.write(b"half")
    assert list(store.content) == []
    assert os.listdir(store.root / "ingest") == []


def test_a_blob_that_is_not_what_was_announced_is_refused(store: Store) -> None:
    with pytest.raises(DigestMismatch), store.content.writer(expected=Digest.of(b"right")) as writer:
        writer.write(b"wrong")
        writer.commit()
    with pytest.raises(DigestMismatch), store.content.writer(expected=Digest.of(b"right"), size=5) as writer:
        writer.write(b"righ")
        writer.commit()
    assert list(store.content) == []
    assert os.listdir(store.root / "ingest") == []


def test_other_algorithms_are_honoured(store: Store) -> None:
    digest = Digest("sha512:" + hashlib.sha512(b"x").hexdigest())
    with store.content.writer(expected=digest) as writer:
        writer.write(b"x")
        assert writer.commit() == digest
    assert store.content.read(digest) == b"x"


def test_a_damaged_blob_is_told_and_removed(store: Store) -> None:
    digest = store.content.put(b"hello")
    store.content.path(digest).write_bytes(b"hellx")
    with pytest.raises(StoreError, match="damaged"):
        store.content.read(digest)
    assert not store.content.has(digest)


def test_a_blob_cut_short_is_replaced_by_a_whole_one(store: Store) -> None:
    digest = store.content.put(b"hello")
    store.content.path(digest).write_bytes(b"he")
    assert store.content.put(b"hello") == digest
    assert store.content.read(digest) == b"hello"


def test_putting_what_is_there_writes_nothing(store: Store) -> None:
    digest = store.content.put(b"hello")
    before = store.content.path(digest).stat()
    store.content.put(b"hello")
    after = store.content.path(digest).stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_a_file_is_adopted_without_a_copy(store: Store) -> None:
    file = store.root / "ingest" / "given"
    file.write_bytes(b"content")
    digest = store.content.adopt(str(file), Digest.of(b"content"), 7)
    assert store.content.path(digest).stat().st_ino == file.stat().st_ino
    store.content.adopt(str(file), digest, 7)
    assert os.listdir(store.root / "ingest") == ["given"]
    file.unlink()


def test_a_full_disk_is_named(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with store.content.writer() as writer:
        monkeypatch.setattr(os, "write", full)
        with pytest.raises(NoSpace) as caught:
            writer.write(b"x")
        monkeypatch.undo()
    assert str(store.root) in caught.value.message
    assert "ANYARCH_ROOT" in (caught.value.hint or "")
    assert os.listdir(store.root / "ingest") == []


def test_a_full_disk_at_the_end_is_named_too(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    with pytest.raises(NoSpace), store.content.writer() as writer:
        writer.write(b"x")
        monkeypatch.setattr(os, "fsync", full)
        writer.commit()
    assert list(store.content) == []
    assert os.listdir(store.root / "ingest") == []
