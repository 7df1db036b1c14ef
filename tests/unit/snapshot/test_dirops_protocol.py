"""Directory operations in a child process do what they do in this one, errors included."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from anyarch.archive.compression import GZIP
from anyarch.archive.entry import Entry, Kind
from anyarch.errors import DigestMismatch, MalformedArchive, StoreError
from anyarch.snapshot.dirops import LocalDirOps, NamespacedDirOps, serve
from anyarch.snapshot.layers import open_layers
from anyarch.store.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path


def _in_process(argv: Sequence[str], stdin: bytes, on_output: Callable[[bytes], object]) -> tuple[int, bytes]:
    """Serves the request here, answering in odd portions."""
    answer = io.BytesIO()
    serve(io.BytesIO(stdin), answer)
    raw = answer.getvalue()
    for start in range(0, len(raw), 1000):
        on_output(raw[start : start + 1000])
    return 0, b""


def _child(
    argv: Sequence[str], stdin: bytes, on_output: Callable[[bytes], object], *wrap: str
) -> tuple[int, bytes]:
    done = subprocess.run([*wrap, *argv], input=stdin, capture_output=True, check=False)
    on_output(done.stdout)
    return done.returncode, done.stderr


def _in_user_namespace(
    argv: Sequence[str], stdin: bytes, on_output: Callable[[bytes], object]
) -> tuple[int, bytes]:
    """As an ordinary user with one id would run it."""
    return _child(argv, stdin, on_output, "unshare", "--user", "--map-root-user", "--mount")


def _fill(upper: Path) -> None:
    upper.mkdir()
    upper.chmod(0o755)
    (upper / "d").mkdir()
    (upper / "d/f").write_bytes(b"hello" * 1000)
    (upper / os.fsdecode(b"caf\xe9")).symlink_to("d")


@pytest.mark.parametrize("run", [_in_process, _child])
def test_a_child_gives_the_same_as_this_process(run: Any, tmp_path: Path) -> None:
    remote = NamespacedDirOps(run, python=sys.executable)
    local = LocalDirOps(overlay="user")
    _fill(tmp_path / "upper")
    entries = remote.scan(str(tmp_path / "upper"), overlay="user")
    assert entries == local.scan(str(tmp_path / "upper"), overlay="user")
    tars: list[list[bytes]] = [[], []]
    packed = [
        local.pack(str(tmp_path / "upper"), entries, tars[0].append),
        remote.pack(str(tmp_path / "upper"), entries, tars[1].append),
    ]
    assert packed[0] == packed[1]
    assert b"".join(tars[0]) == b"".join(tars[1])
    (tmp_path / "tar").write_bytes(b"".join(tars[0]))
    unpacked = [
        ops.unpack(str(tmp_path / "tar"), str(tmp_path / name), overlay="user", parents=[], expected=None)
        for ops, name in ((local, "one"), (remote, "two"))
    ]
    assert unpacked[0] == unpacked[1]
    assert (tmp_path / "two/d/f").read_bytes() == b"hello" * 1000
    remote.remove(str(tmp_path / "two"))
    assert not (tmp_path / "two").exists()


@pytest.mark.parametrize("run", [_in_process, _child])
def test_errors_come_back_as_what_they_are(run: Any, tmp_path: Path) -> None:
    remote = NamespacedDirOps(run, python=sys.executable)
    (tmp_path / "tar").write_bytes(b"no tar" * 1000)
    with pytest.raises(MalformedArchive):
        remote.unpack(str(tmp_path / "tar"), str(tmp_path / "x"), overlay="user", parents=[], expected=None)
    (tmp_path / "tar").write_bytes(bytes(1024))
    with pytest.raises(DigestMismatch) as caught:
        remote.unpack(
            str(tmp_path / "tar"), str(tmp_path / "y"), overlay="user", parents=[], expected="sha256:0"
        )
    assert caught.value.hint
    with pytest.raises(StoreError, match="none"):
        remote.scan(str(tmp_path / "none"), overlay="user")
    with pytest.raises(StoreError, match="no such operation"):
        remote._call({"op": "other"})


def test_a_child_that_dies_is_an_error_with_its_last_words() -> None:
    def fail(argv: Sequence[str], stdin: bytes, on_output: Callable[[bytes], object]) -> tuple[int, bytes]:
        return 3, b"unshare: Operation not permitted\n"

    with pytest.raises(StoreError, match="status 3: unshare: Operation not permitted"):
        NamespacedDirOps(fail).remove("/none")


def test_parents_without_an_entry_get_their_attributes_in_the_child(tmp_path: Path) -> None:
    remote = NamespacedDirOps(_in_process)
    with Store.open(tmp_path / "store") as store:
        layers = open_layers(store, dirops=remote)
        with layers.new_tar() as tar:
            tar.add(Entry("tmp/f", Kind.FILE), b"")
            layer = tar.commit()
        with layers.new_tar() as tar:
            tar.add(Entry("tmp", Kind.DIRECTORY, 0o1777))
            base = tar.commit()
        assert (layers.directories([base, layer])[1] / "tmp").stat().st_mode & 0o7777 == 0o1777


@pytest.mark.root
def test_one_id_is_enough_and_owners_are_not_lost(tmp_path: Path) -> None:
    with Store.open(tmp_path / "store") as store:
        layers = open_layers(store, dirops=NamespacedDirOps(_in_user_namespace))
        with layers.new_tar() as tar:
            tar.add(Entry("d", Kind.DIRECTORY, 0o555, 7, 7))
            tar.add(Entry("d/f", Kind.FILE, 0o4600, 33, 33, size=5), b"hello")
            tar.add(Entry("gone", Kind.WHITEOUT))
            tar.add(Entry("null", Kind.CHAR_DEVICE, 0o666, major=1, minor=3))
            layer = tar.commit()
        directory = layers.directory(layer)
        assert (directory / "d/f").read_bytes() == b"hello"
        assert (directory / "d/f").stat().st_uid == os.geteuid()
        entry = layers.index(layer).get("d/f")
        assert entry is not None
        assert (entry.uid, entry.mode) == (33, 0o4600)
        assert layers.blob(layer, GZIP).size > 0
        assert store.verify() == []
