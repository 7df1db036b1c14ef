"""LayerPipe, LayerWriter and what carries them: digests of both sides, order, errors, threads."""

from __future__ import annotations

import hashlib
import io
import os
import threading
import time
from typing import TYPE_CHECKING

import pytest

from anyarch.archive.compression import GZIP, UNCOMPRESSED, ZSTD, Compression
from anyarch.archive.decompression import open_decompressed
from anyarch.archive.entry import Entry, Kind
from anyarch.archive.parallel import Ordered
from anyarch.archive.pipeline import LayerPipe, LayerWriter
from anyarch.archive.tar import TarWriter
from anyarch.archive.tree import scan_tree, tar_tree
from anyarch.errors import MalformedArchive

if TYPE_CHECKING:
    from pathlib import Path

    from anyarch.archive.pipeline import LayerSummary

ENTRIES = [(Entry(f"f{number}", Kind.FILE, size=300_000), os.urandom(1000) * 300) for number in range(20)]


def layer(compression: Compression, *, threads: int | None = None) -> tuple[bytes, bytes, LayerSummary]:
    blob: list[bytes] = []
    tar: list[bytes] = []
    with LayerWriter(compression, blob.append, tee=tar.append, threads=threads) as writer:
        for entry, content in ENTRIES:
            writer.add(entry, content)
        summary = writer.close()
        assert writer.close() == summary
    return b"".join(blob), b"".join(tar), summary


@pytest.mark.parametrize("compression", [GZIP, ZSTD, UNCOMPRESSED, Compression("gzip", 4)])
def test_a_summary_tells_digests_and_sizes_of_tar_and_blob(compression: Compression) -> None:
    blob, tar, summary = layer(compression)
    assert summary.digest == "sha256:" + hashlib.sha256(blob).hexdigest()
    assert summary.diff_id == "sha256:" + hashlib.sha256(tar).hexdigest()
    assert (summary.size, summary.tar_size) == (len(blob), len(tar))
    assert open_decompressed(io.BytesIO(blob)).readall() == tar
    for threads in (1, 2, 7):
        assert layer(compression, threads=threads) == (blob, tar, summary)


def test_a_tar_that_exists_gives_the_same_layer_through_the_pipe() -> None:
    blob, tar, summary = layer(GZIP)
    out: list[bytes] = []
    with LayerPipe(GZIP, out.append) as pipe:
        for start in range(0, len(tar), 100_001):
            pipe.write(tar[start : start + 100_001])
        assert pipe.close() == summary
    assert b"".join(out) == blob


def test_a_directory_becomes_the_same_layer_as_its_entries(tmp_path: Path) -> None:
    for entry, content in ENTRIES:
        (tmp_path / entry.path).write_bytes(content)
    entries = scan_tree(str(tmp_path))
    summaries = []
    for _ in range(2):
        with LayerWriter(ZSTD, lambda _: None, hash_contents=True) as writer:
            written = tar_tree(entries, str(tmp_path), writer)
            summaries.append(writer.close())
    assert summaries[0] == summaries[1]
    assert {entry.digest for entry in written} == {hashlib.sha256(content).digest() for _, content in ENTRIES}
    out: list[bytes] = []
    tar = TarWriter(out.append)
    tar_tree(entries, str(tmp_path), tar)
    tar.close()
    assert summaries[0].diff_id == "sha256:" + hashlib.sha256(b"".join(out)).hexdigest()


def anyarch_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("anyarch-")]


@pytest.mark.parametrize("compression", [GZIP, ZSTD, UNCOMPRESSED])
@pytest.mark.parametrize("threads", [1, 4])
def test_errors_on_either_side_end_all_threads(compression: Compression, threads: int) -> None:
    def full(_: bytes) -> None:
        raise OSError(28, "full")

    with pytest.raises(OSError, match="full"), LayerWriter(compression, full, threads=threads) as writer:
        for entry, content in ENTRIES * 5:
            writer.add(entry, content)
        writer.close()
    with pytest.raises(MalformedArchive), LayerWriter(compression, lambda _: None, threads=threads) as writer:
        for entry, content in ENTRIES:
            writer.add(entry, content)
        writer.add(Entry("short", Kind.FILE, size=5), b"")
    with LayerWriter(compression, lambda _: None, threads=threads) as writer:
        for entry, content in ENTRIES:
            writer.add(entry, content)
    assert anyarch_threads() == []


# -- Ordered


@pytest.mark.parametrize("threads", [0, 1, 5])
def test_results_come_in_order_from_one_thread_at_a_time(threads: int) -> None:
    found: list[int] = []
    busy = threading.Lock()

    def work(item: int) -> int:
        time.sleep(0.002 if item % 3 == 0 else 0)
        return item * 2

    def deliver(result: int) -> None:
        assert busy.acquire(blocking=False)
        found.append(result)
        time.sleep(0.0005)
        busy.release()

    ordered = Ordered(work, deliver, threads=threads)
    for item in range(60):
        ordered.submit(item)
    ordered.close()
    assert found == [item * 2 for item in range(60)]
    with pytest.raises(ValueError, match="closed"):
        ordered.submit(1)


@pytest.mark.parametrize("threads", [0, 1, 4])
@pytest.mark.parametrize("place", ["work", "deliver"])
def test_an_error_is_raised_to_the_submitter_and_nothing_later_is_delivered(threads: int, place: str) -> None:
    found: list[int] = []

    def work(item: int) -> int:
        if place == "work" and item == 7:
            raise KeyError(item)
        return item

    def deliver(result: int) -> None:
        if place == "deliver" and result == 7:
            raise KeyError(result)
        found.append(result)

    ordered = Ordered(work, deliver, threads=threads)
    with pytest.raises(KeyError):
        for item in range(1000):
            ordered.submit(item)
        ordered.close()
    ordered.abort()
    assert found == found[:7] == list(range(len(found)))
    assert anyarch_threads() == []


def test_aborting_wakes_and_ends_idle_and_busy_threads() -> None:
    started = threading.Event()

    def work(item: int) -> int:
        started.set()
        time.sleep(0.01)
        return item

    ordered = Ordered(work, lambda _: None, threads=3, depth=50)
    for item in range(30):
        ordered.submit(item)
    started.wait()
    ordered.abort()
    ordered.abort()
    assert anyarch_threads() == []
