"""Large blobs that were cut off are gone on with, and only what is right gets its name."""

from __future__ import annotations

import os
import random
import time
from typing import TYPE_CHECKING

import pytest

from anyarch.errors import DigestMismatch
from anyarch.spec.digest import Digest
from anyarch.store.collect import collect
from anyarch.store.policy import Policy
from anyarch.store.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

RAW = random.Random(5).randbytes(3 << 20)
DIGEST = Digest.of(RAW)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store") as store:
        yield store


def begin(store: Store, raw: bytes, digest: str = DIGEST) -> None:
    with store.content.writer(expected=digest, size=len(RAW), resume=True) as writer:
        writer.write(raw)


def test_a_writer_goes_on_with_what_another_left(store: Store) -> None:
    begin(store, RAW[: 2 << 20])
    with store.content.writer(expected=DIGEST, size=len(RAW), resume=True) as writer:
        assert writer.offset == 2 << 20
        assert not store.content.has(DIGEST)
        writer.write(RAW[2 << 20 :])
        assert writer.commit() == DIGEST
    assert store.content.read(DIGEST) == RAW
    assert os.listdir(store.root / "partial") == []


def test_the_next_opening_of_the_store_keeps_the_part(tmp_path: Path) -> None:
    with Store.open(tmp_path / "store") as store:
        begin(store, RAW[: 2 << 20])
    with (
        Store.open(tmp_path / "store") as store,
        store.content.writer(expected=DIGEST, size=len(RAW), resume=True) as writer,
    ):
        assert writer.offset == 2 << 20


def test_a_part_that_is_wrong_is_thrown_away(store: Store) -> None:
    begin(store, bytes(2 << 20))
    with (
        pytest.raises(DigestMismatch),
        store.content.writer(expected=DIGEST, size=len(RAW), resume=True) as writer,
    ):
        writer.write(RAW[2 << 20 :])
        writer.commit()
    assert not store.content.has(DIGEST)
    assert os.listdir(store.root / "partial") == []


def test_a_part_that_is_too_long_is_begun_anew(store: Store) -> None:
    begin(store, RAW + b"x")
    with store.content.writer(expected=DIGEST, size=len(RAW), resume=True) as writer:
        assert writer.offset == 0


def test_two_writers_of_one_blob_do_not_meet(store: Store) -> None:
    content = store.content
    with (
        content.writer(expected=DIGEST, size=len(RAW), resume=True) as first,
        content.writer(expected=DIGEST, size=len(RAW), resume=True) as second,
    ):
        first.write(RAW[: 1 << 20])
        second.write(RAW)
        second.commit()
        first.write(RAW[1 << 20 :])
        first.commit()
    assert content.read(DIGEST) == RAW
    assert os.listdir(store.root / "partial") == os.listdir(store.root / "ingest") == []


def test_small_parts_are_not_kept(store: Store) -> None:
    begin(store, RAW[:1000])
    assert os.listdir(store.root / "partial") == []


def test_a_part_that_nobody_goes_on_with_is_removed_in_time(tmp_path: Path) -> None:
    with Store.open(tmp_path / "store") as store:
        begin(store, RAW[: 2 << 20])
        (part,) = (store.root / "partial").iterdir()
    long_ago = time.time() - 30 * 86400
    os.utime(part, (long_ago, long_ago))
    with Store.open(tmp_path / "store"):
        assert not part.exists()


def test_prune_of_everything_removes_parts_but_those_in_use(store: Store) -> None:
    begin(store, RAW[: 2 << 20])
    other = Digest.of(b"other")
    with store.content.writer(expected=other, size=len(RAW), resume=True) as writer:
        writer.write(RAW[: 2 << 20])
        collect(store, [Policy(all=True)])
        assert os.listdir(store.root / "partial") == [other.replace(":", "-")]
