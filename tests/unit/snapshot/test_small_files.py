"""Many small files are read once, by two processes, whatever becomes of one of them."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from anyarch.errors import ContextError
from anyarch.snapshot import filereader, smallfiles
from anyarch.snapshot.hosttree import HostTree
from anyarch.store.store import Store

_FILES = 3000


@pytest.fixture(autouse=True)
def two_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smallfiles, "usable_cpus", lambda: 2)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[bytes]]:
    """The processes that were started to read files."""
    found: list[subprocess.Popen[bytes]] = []
    real = subprocess.Popen

    def start(*args: object, **options: object) -> subprocess.Popen[bytes]:
        process: subprocess.Popen[bytes] = real(*args, **options)  # type: ignore[call-overload]
        found.append(process)
        return process

    monkeypatch.setattr(subprocess, "Popen", start)
    return found


def _fill(directory: Path, count: int = _FILES) -> dict[str, bytes]:
    contents = {f"d{n // 500}/f{n:05}": b"%d " % n * (n % 90) for n in range(count)}
    contents["name \udcff\n"] = b"not UTF-8, with a line break"
    for path, data in contents.items():
        file = directory / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    return contents


def _digests(tree: HostTree) -> dict[str, bytes]:
    return {node.entry.path: node.entry.digest for node in tree.walk("") if node.entry.digest}


def _content(tree: HostTree, path: str) -> bytes:
    node = tree.lookup(path)
    assert node is not None
    found = tree.content(node)
    if isinstance(found, bytes):
        return found
    with found:
        return found.read()


def test_a_second_process_takes_its_share_and_gives_what_the_files_hold(
    tmp_path: Path, started: list[subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    contents = _fill(tmp_path / "context")
    answered: list[int] = []
    real = smallfiles.ReadAhead._receive

    def count(ahead: smallfiles.ReadAhead) -> None:
        answered.append(len(ahead._sent[0][0]))
        real(ahead)

    monkeypatch.setattr(smallfiles.ReadAhead, "_receive", count)
    with Store.open(tmp_path / "store") as store:
        tree = HostTree(str(tmp_path / "context"), store=store)
        assert _digests(tree) == {path: hashlib.sha256(data).digest() for path, data in contents.items()}
        assert sum(answered) >= 256
        assert {path: _content(tree, path) for path in contents} == contents
        assert {path: _content(tree, path) for path in contents} == contents  # from the files, this time
    (process,) = started
    assert process.returncode is not None  # ended and waited for


def test_few_files_start_no_process(tmp_path: Path, started: list[subprocess.Popen[bytes]]) -> None:
    _fill(tmp_path / "context", 500)
    with Store.open(tmp_path / "store") as store:
        HostTree(str(tmp_path / "context"), store=store).content_digest("")
    assert started == []


@pytest.mark.parametrize("batches", [0, 1, 4])
def test_what_a_killed_process_leaves_is_read_here(
    tmp_path: Path,
    started: list[subprocess.Popen[bytes]],
    monkeypatch: pytest.MonkeyPatch,
    batches: int,
) -> None:
    contents = _fill(tmp_path / "context")
    received: list[None] = []
    real = smallfiles.ReadAhead._receive

    def kill_after_some(ahead: smallfiles.ReadAhead) -> None:
        if len(received) == batches:
            started[0].send_signal(signal.SIGKILL)
            started[0].wait()
        received.append(None)
        real(ahead)

    monkeypatch.setattr(smallfiles.ReadAhead, "_receive", kill_after_some)
    with Store.open(tmp_path / "store") as store:
        tree = HostTree(str(tmp_path / "context"), store=store)
        assert _digests(tree) == {path: hashlib.sha256(data).digest() for path, data in contents.items()}
        assert {path: _content(tree, path) for path in contents} == contents


def test_where_no_process_can_be_started_all_is_read_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents = _fill(tmp_path / "context")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "none"))
    with Store.open(tmp_path / "store") as store:
        tree = HostTree(str(tmp_path / "context"), store=store)
        tree.content_digest("")
        assert _digests(tree) == {path: hashlib.sha256(data).digest() for path, data in contents.items()}


def test_more_than_is_kept_is_digested_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contents = _fill(tmp_path / "context")
    monkeypatch.setattr(smallfiles, "_KEPT", 100_000)
    with Store.open(tmp_path / "store") as store:
        tree = HostTree(str(tmp_path / "context"), store=store)
        assert len(_digests(tree)) == len(contents)
        assert {path: _content(tree, path) for path in contents} == contents


def test_the_reader_refuses_files_that_are_not_what_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("same", "longer", "touched"):
        (tmp_path / name).write_bytes(b"abc")
    os.symlink("same", "link")
    times = {name: os.stat(name).st_mtime_ns for name in ("same", "longer", "touched")}
    Path("longer").write_bytes(b"abcd")
    os.utime("longer", ns=(0, times["longer"]))
    os.utime("touched", ns=(0, 0))
    asked = [
        (b"same", 3, times["same"]),
        (b"longer", 3, times["longer"]),
        (b"touched", 3, times["touched"]),
        (b"gone", 3, 0),
        (b"link", 3, times["same"]),
    ]
    shared = os.memfd_create("test")
    try:
        answer = filereader.read_files(shared, 0, asked)
        assert os.pread(shared, 99, 0) == b"abc" + bytes(12)
    finally:
        os.close(shared)
    assert answer == b"\1" + hashlib.sha256(b"abc").digest() + bytes(33 * 4)


def test_a_file_that_changed_after_the_scan_fails_the_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fill(tmp_path / "context")
    real = smallfiles.ReadAhead.finish

    def change_before(ahead: smallfiles.ReadAhead) -> None:
        (tmp_path / "context/d5/f02999").write_bytes(b"another content")
        real(ahead)

    monkeypatch.setattr(smallfiles.ReadAhead, "finish", change_before)
    with Store.open(tmp_path / "store") as store:
        tree = HostTree(str(tmp_path / "context"), store=store)
        with pytest.raises(ContextError, match="file changed during the build: d5/f02999"):
            tree.content_digest("")
