"""Layers: every form has the same content, is made once, and is whole or not there."""

from __future__ import annotations

import errno
import gzip
import hashlib
import io
import os
import stat
import subprocess
import sys
import tarfile
import threading
from typing import TYPE_CHECKING, Literal

import pytest

from anyarch.archive.compression import GZIP, UNCOMPRESSED, ZSTD, open_decompressed
from anyarch.archive.entry import Entry, Kind
from anyarch.errors import (
    BlobNotFound,
    ContextError,
    DigestMismatch,
    MalformedArchive,
    NoSpace,
    PathNotFound,
    StoreError,
)
from anyarch.snapshot.dirops import LocalDirOps
from anyarch.snapshot.hosttree import HostTree
from anyarch.snapshot.layers import open_layers
from anyarch.snapshot.view import View
from anyarch.spec.digest import Digest
from anyarch.spec.media import OCI_LAYER_GZIP
from anyarch.spec.oci import Descriptor
from anyarch.store.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from anyarch.snapshot.dirops import Overlay, UnpackedLayer
    from anyarch.snapshot.layers import Layer, LayerStore


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="attributes trusted.* belong to root")


class CountingDirOps(LocalDirOps):
    """Counts what is done, to see that it is done once."""

    def __init__(self) -> None:
        super().__init__()
        self.unpacked: list[str] = []
        self.packed: list[str] = []

    def unpack(
        self, source: str, target: str, *, overlay: Overlay, parents: Sequence[Entry], expected: str | None
    ) -> UnpackedLayer:
        self.unpacked.append(source)
        return super().unpack(source, target, overlay=overlay, parents=parents, expected=expected)

    def pack(self, directory: str, entries: Sequence[Entry], write: object) -> list[Entry]:
        self.packed.append(directory)
        return super().pack(directory, entries, write)  # type: ignore[arg-type]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store") as store:
        yield store
        assert store.verify() == []
        assert os.listdir(store.root / "ingest") == os.listdir(store.root / "work") == []


@pytest.fixture
def dirops() -> CountingDirOps:
    return CountingDirOps()


@pytest.fixture
def layers(store: Store, dirops: CountingDirOps) -> LayerStore:
    return open_layers(store, dirops=dirops)


def _tar_layer(layers: LayerStore, content: dict[str, bytes | None]) -> Layer:
    """A layer of files, and of directories where the content is None."""
    with layers.new_tar(description="test") as tar:
        for path, data in content.items():
            if data is None:
                tar.add(Entry(path, Kind.DIRECTORY, 0o755))
            else:
                tar.add(Entry(path, Kind.FILE, 0o644, size=len(data)), data)
        return tar.commit()


def _pull(layers: LayerStore, raw_tar: bytes, *, local: bool = True, diff_id: str | None = None) -> Layer:
    """A layer that comes as a gzip blob."""
    blob = gzip.compress(raw_tar, 1, mtime=0)
    if local:
        layers.store.content.put(blob)
    descriptor = Descriptor(OCI_LAYER_GZIP, str(Digest.of(blob)), len(blob))
    return layers.add_blob(descriptor, diff_id or Digest.of(raw_tar), fetch_from="docker.io/library/x")


def _foreign_tar(**content: bytes) -> bytes:
    """A tar of another maker."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in content.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return raw.getvalue()


def _upper(tmp_path: Path, name: str = "upper") -> Path:
    upper = tmp_path / "store" / name
    upper.mkdir()
    upper.chmod(0o755)
    return upper


def _tar_of(layers: LayerStore, layer: Layer) -> bytes:
    """The uncompressed tar, by way of a blob."""
    descriptor = layers.blob(layer, GZIP)
    with layers.store.content.open(descriptor.digest) as raw, open_decompressed(raw) as plain:
        return plain.read()


# -- born as tar


def test_a_written_layer_is_known_by_its_diff_id(layers: LayerStore, store: Store) -> None:
    layer = _tar_layer(layers, {"a": None, "a/f": b"hello", "b": b""})
    raw = (store.root / "layers" / layer.id.replace(":", "-") / "tar").read_bytes()
    assert layer.id == Digest.of(raw)
    assert layer.size == len(raw)
    assert layers.get(layer.id) == layer
    assert layers.diff_id(layer) == layer.id
    index = layers.index(layer)
    assert [(entry.path, entry.kind, entry.size) for entry in index] == [
        ("a", Kind.DIRECTORY, 0),
        ("a/f", Kind.FILE, 5),
        ("b", Kind.FILE, 0),
    ]
    entry = index.get("a/f")
    assert entry is not None
    assert entry.digest == hashlib.sha256(b"hello").digest()
    with layers.open_file(layer, entry) as file:
        assert file.read() == b"hello"
    with tarfile.open(fileobj=io.BytesIO(raw)) as tar:
        assert tar.getnames() == ["a", "a/f", "b"]


def test_equal_content_is_one_layer(layers: LayerStore, store: Store) -> None:
    first = _tar_layer(layers, {"a": b"x"})
    second = _tar_layer(layers, {"a": b"x"})
    assert first == second
    assert len(os.listdir(store.root / "layers")) == 1
    assert _tar_layer(layers, {"a": b"y"}).id != first.id


def test_leaving_without_commit_leaves_nothing(layers: LayerStore, store: Store) -> None:
    with layers.new_tar() as tar:
        tar.add(Entry("a", Kind.FILE, size=1), b"x")
    with pytest.raises(KeyError), layers.new_tar():
        raise KeyError
    assert os.listdir(store.root / "layers") == []


def test_a_full_disk_leaves_nothing_of_a_layer(
    layers: LayerStore, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(NoSpace, match=str(store.root)), layers.new_tar() as tar:
        tar.add(Entry("a", Kind.FILE, size=3 << 20), bytes(3 << 20))
        monkeypatch.setattr(os, "write", full)
        try:
            tar.commit()
        finally:
            monkeypatch.undo()
    assert os.listdir(store.root / "layers") == []


def test_links_and_slices_read_the_content(layers: LayerStore) -> None:
    data = bytes(range(256)) * 20
    with layers.new_tar() as tar:
        tar.add(Entry("a", Kind.FILE, size=len(data)), io.BytesIO(data))
        tar.add(Entry("b", Kind.HARDLINK, linkname="a"))
        tar.add(Entry("c", Kind.SYMLINK, linkname="a"))
        layer = tar.commit()
    index = layers.index(layer)
    hard, soft = index.get("b"), index.get("c")
    assert hard is not None
    assert soft is not None
    with layers.open_file(layer, hard) as file:
        assert file.read(10) == data[:10]
        assert file.tell() == 10
        file.seek(-5, os.SEEK_END)
        buffer = bytearray(9)
        assert file.readinto(buffer) == 5  # type: ignore[attr-defined]
        assert buffer[:5] == data[-5:]
        file.seek(0)
        assert file.read(1 << 20) == data
        assert file.read() == b""
    with pytest.raises(PathNotFound):
        layers.open_file(layer, soft)
    with pytest.raises(PathNotFound):
        layers.open_file(layer, Entry("d", Kind.HARDLINK, linkname="none"))


def test_a_tar_layer_is_unpacked_once_for_all_threads(layers: LayerStore, dirops: CountingDirOps) -> None:
    layer = _tar_layer(layers, {"a": None, "a/f": b"hello"})
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(layers.directory(layer))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1
    assert len(found) == 6
    assert (found[0] / "a/f").read_bytes() == b"hello"
    assert len(dirops.unpacked) == 1


def test_a_blob_is_made_once_for_all_threads_and_kinds(layers: LayerStore) -> None:
    layer = _tar_layer(layers, {"a": os.urandom(1 << 16)})
    found: list[Descriptor] = []
    threads = [threading.Thread(target=lambda: found.append(layers.blob(layer, GZIP))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({one.digest for one in found}) == 1
    gzipped, zstd, plain = (layers.blob(layer, one) for one in (GZIP, ZSTD, UNCOMPRESSED))
    assert plain.digest == layer.id
    assert {one.media_type.rpartition("+")[2] for one in (gzipped, zstd)} == {"gzip", "zstd"}
    for descriptor in (gzipped, zstd, plain):
        with layers.store.content.open(descriptor.digest) as raw, open_decompressed(raw) as file:
            assert Digest.of(file.read()) == layer.id
        assert layers.store.content.size(descriptor.digest) == descriptor.size


def test_a_blob_that_was_removed_is_made_again(layers: LayerStore) -> None:
    layer = _tar_layer(layers, {"a": b"x"})
    first = layers.blob(layer, GZIP)
    layers.store.content.remove(first.digest)
    assert layers.blob(layer, GZIP) == first
    assert layers.store.content.has(first.digest)


def test_the_same_form_is_made_once_by_several_processes(layers: LayerStore, store: Store) -> None:
    layer = _tar_layer(layers, {f"f{number}": os.urandom(500) for number in range(200)})
    program = """
import sys
from pathlib import Path
from anyarch.archive.compression import GZIP
from anyarch.snapshot.layers import open_layers
from anyarch.store.store import Store
with Store.open(Path(sys.argv[1])) as store:
    layers = open_layers(store)
    layer = layers.get(sys.argv[2])
    sys.stdin.read(1)
    directory = layers.directory(layer)
    status = directory.stat()
    print(directory, status.st_ino, status.st_ctime_ns, layers.blob(layer, GZIP).digest)
"""
    children = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(store.root), layer.id],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for _ in range(4)
    ]
    outputs = {child.communicate(b"x")[0] for child in children}
    assert [child.returncode for child in children] == [0] * 4
    assert len(outputs) == 1


# -- pulled


class MeetingDirOps(LocalDirOps):
    """Each unpacking waits for another one to be under way."""

    def __init__(self) -> None:
        super().__init__()
        self.meeting = threading.Barrier(2)

    def unpack(
        self, source: str, target: str, *, overlay: Overlay, parents: Sequence[Entry], expected: str | None
    ) -> UnpackedLayer:
        self.meeting.wait(30)
        return super().unpack(source, target, overlay=overlay, parents=parents, expected=expected)


def test_pulled_layers_are_unpacked_side_by_side(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anyarch.archive.parallel.usable_cpus", lambda: 2)
    layers = open_layers(store, dirops=MeetingDirOps())
    chain = [_pull(layers, _foreign_tar(**{f"f{number}": b"x"})) for number in range(4)]
    assert [sorted(os.listdir(path)) for path in layers.directories(chain)] == [
        ["f0"],
        ["f1"],
        ["f2"],
        ["f3"],
    ]
    assert [[entry.path for entry in layers.index(layer)] for layer in chain] == [
        ["f0"],
        ["f1"],
        ["f2"],
        ["f3"],
    ]


def test_a_bad_one_of_several_pulled_layers_is_told_and_the_others_are_kept(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anyarch.archive.parallel.usable_cpus", lambda: 2)
    dirops = CountingDirOps()
    layers = open_layers(store, dirops=dirops)
    wrong = str(Digest.of(b"something else"))
    good, bad = _pull(layers, _foreign_tar(a=b"a")), _pull(layers, _foreign_tar(b=b"b"), diff_id=wrong)
    with pytest.raises(DigestMismatch, match=wrong):
        layers.unpack([bad, good])
    assert os.listdir(layers.directory(good)) == ["a"]
    assert len(dirops.unpacked) == 2


def test_a_remote_layer_is_known_without_its_bytes(layers: LayerStore) -> None:
    raw = _foreign_tar(a=b"hello")
    layer = _pull(layers, raw, local=False)
    again = layers.add_blob(layers.remote(layer)[0][0], layer.id, fetch_from="localhost:5000/y")
    assert again == layer
    assert [reference for _, reference in layers.remote(layer)] == ["localhost:5000/y", "docker.io/library/x"]
    assert layers.missing([layer]) == [layer]
    assert layers.blob(layer, ZSTD).media_type == OCI_LAYER_GZIP
    assert layers.diff_id(layer) == layer.id
    for ask in (layers.index, layers.directory, lambda one: layers.blob(one, ZSTD, force=True)):
        with pytest.raises(BlobNotFound):
            ask(layer)
    layers.store.content.put(gzip.compress(raw, 1, mtime=0))
    assert layers.missing([layer]) == []
    assert [entry.path for entry in layers.index(layer)] == ["a"]


def test_a_pulled_layer_is_read_through_its_tar(layers: LayerStore) -> None:
    raw = _foreign_tar(a=b"hello", b=b"world" * 500)
    layer = _pull(layers, raw)
    view = View(layers, [layer])
    node = view.lookup("b")
    assert node is not None
    with view.open(node) as file:
        assert file.read() == b"world" * 500
    assert node.entry.digest == b""
    assert view.content_digest("b") == View(
        layers, [_tar_layer(layers, {"b": b"world" * 500})]
    ).content_digest("b")


def test_a_pulled_layer_is_unpacked_without_its_tar(layers: LayerStore, store: Store) -> None:
    layer = _pull(layers, _foreign_tar(a=b"hello"))
    directory = layers.directory(layer)
    assert (directory / "a").read_bytes() == b"hello"
    assert set(store.records.get(layer.id).forms) == {"index", "dir"}
    entry = layers.index(layer).get("a")
    assert entry is not None
    with layers.open_file(layer, entry) as file:
        assert file.read() == b"hello"
    assert layers.blob(layer, ZSTD, force=True).media_type.endswith("zstd")
    assert set(store.records.get(layer.id).forms) == {"index", "dir"}


def test_a_pulled_layer_keeps_its_blob_unless_forced(layers: LayerStore) -> None:
    layer = _pull(layers, _foreign_tar(a=b"hello"))
    pulled = layers.blob(layer, GZIP)
    assert layers.blob(layer, GZIP, force=True) == pulled
    assert layers.blob(layer, ZSTD) == pulled
    forced = layers.blob(layer, ZSTD, force=True)
    assert forced.digest != pulled.digest
    assert layers.blob(layer, ZSTD) == forced
    assert layers.blob(layer, GZIP) == pulled


def test_of_several_pulled_blobs_that_of_the_latest_image_is_taken(layers: LayerStore) -> None:
    raw = _foreign_tar(a=b"hello" * 1000)
    for level in (0, 9, 1, 5):
        blob = gzip.compress(raw, level, mtime=0)
        layers.store.content.put(blob)
        descriptor = Descriptor(OCI_LAYER_GZIP, str(Digest.of(blob)), len(blob))
        layer = layers.add_blob(descriptor, Digest.of(raw), fetch_from=f"docker.io/library/x{level}")
        assert layers.blob(layer, GZIP).digest == descriptor.digest


def test_a_blob_that_is_not_its_diff_id_is_refused(layers: LayerStore, store: Store) -> None:
    layer = _pull(layers, _foreign_tar(a=b"hello"), diff_id=Digest.of(b"something else"))
    for ask in (layers.index, layers.directory):
        with pytest.raises(DigestMismatch, match=str(Digest.of(b"something else"))):
            ask(layer)
    assert store.records.get(layer.id).forms == {}


def test_a_blob_that_is_no_tar_is_malformed(layers: LayerStore, store: Store) -> None:
    layer = _pull(layers, b"this is not a tar archive" * 100)
    for ask in (layers.index, layers.directory):
        with pytest.raises(MalformedArchive):
            ask(layer)
    assert store.records.get(layer.id).forms == {}


# -- born as directory


def test_the_result_of_a_step_becomes_a_layer(layers: LayerStore, tmp_path: Path, store: Store) -> None:
    upper = _upper(tmp_path)
    (upper / "etc").mkdir()
    (upper / "etc/conf").write_bytes(b"hello")
    (upper / "etc/conf").chmod(0o640)
    os.link(upper / "etc/conf", upper / "etc/hard")
    os.mknod(upper / "removed", stat.S_IFCHR, 0)  # which any user may
    layer = layers.adopt_upper(upper, overlay="trusted", description="RUN x")
    assert layer is not None
    assert layer.id.startswith("x-")
    assert layer.size == 5
    assert not upper.exists()
    assert [(entry.path, entry.kind) for entry in layers.index(layer)] == [
        ("etc", Kind.DIRECTORY),
        ("etc/conf", Kind.FILE),
        ("etc/hard", Kind.HARDLINK),
        ("removed", Kind.WHITEOUT),
    ]
    directory = layers.directory(layer)
    assert (directory / "etc/conf").read_bytes() == b"hello"
    assert stat.S_ISCHR((directory / "removed").lstat().st_mode)
    raw = _tar_of(layers, layer)
    assert layers.diff_id(layer) == Digest.of(raw)
    with tarfile.open(fileobj=io.BytesIO(raw)) as tar:
        assert sorted(tar.getnames()) == [".wh.removed", "etc", "etc/conf", "etc/hard"]
        assert tar.getmember("etc/hard").islnk()
    assert "tar" not in store.records.get(layer.id).forms
    entry = layers.index(layer).get("etc/hard")
    assert entry is not None
    with layers.open_file(layer, entry) as file:
        assert file.read() == b"hello"


def test_the_diff_id_of_a_step_is_computed_without_a_blob(layers: LayerStore, tmp_path: Path) -> None:
    upper = _upper(tmp_path)
    (upper / "f").write_bytes(b"x")
    layer = layers.adopt_upper(upper, overlay="trusted")
    assert layer is not None
    diff_id = layers.diff_id(layer)
    assert layers.diff_id(layer) == diff_id == Digest.of(_tar_of(layers, layer))


@pytest.mark.root
@needs_root
def test_an_opaque_directory_is_remade_for_the_other_kind_of_mount(
    layers: LayerStore, tmp_path: Path
) -> None:
    upper = _upper(tmp_path)
    (upper / "d").mkdir()
    (upper / "d/f").write_bytes(b"hello")
    os.setxattr(upper / "d", "user.overlay.opaque", b"y")
    layer = layers.adopt_upper(upper, overlay="user")
    assert layer is not None
    user = layers.directory(layer, overlay="user")
    trusted = layers.directory(layer, overlay="trusted")
    assert os.getxattr(user / "d", "user.overlay.opaque") == b"y"
    assert os.getxattr(trusted / "d", "trusted.overlay.opaque") == b"y"
    assert "user.overlay.opaque" not in os.listxattr(trusted / "d")
    assert (trusted / "d/f").read_bytes() == b"hello"
    assert layers.directory(layer, overlay="trusted") == trusted


def test_a_layer_without_opaque_directories_has_one_directory(
    layers: LayerStore, dirops: CountingDirOps
) -> None:
    layer = _tar_layer(layers, {"a": None, "a/f": b""})
    assert layers.directory(layer, overlay="user") == layers.directory(layer, overlay="trusted")
    assert len(dirops.unpacked) == 1


# -- directories on a chain


def test_a_directory_without_an_entry_is_made_as_it_is_below(
    layers: LayerStore, dirops: CountingDirOps
) -> None:
    with layers.new_tar() as tar:
        tar.add(Entry("tmp", Kind.DIRECTORY, 0o1777))
        tar.add(Entry("usr", Kind.DIRECTORY, 0o755))
        base = tar.commit()
    layer = _tar_layer(layers, {"tmp/f": b"", "usr/g": b""})
    plain = layers.directory(layer)
    on_base = layers.directories([base, layer])[1]
    assert (plain / "tmp").stat().st_mode & 0o7777 == 0o755
    assert (on_base / "tmp").stat().st_mode & 0o7777 == 0o1777
    assert plain != on_base
    assert layers.directories([base, layer])[1] == on_base
    other = _tar_layer(layers, {"usr/h": b""})  # nothing special below: the plain form serves
    assert layers.directories([base, other])[1] == layers.directory(other)
    assert len(dirops.unpacked) == 4


# -- digests


def test_digests_that_were_computed_are_kept(layers: LayerStore, store: Store, tmp_path: Path) -> None:
    upper = _upper(tmp_path)
    (upper / "a").write_bytes(b"aa")
    (upper / "b").write_bytes(b"bb")
    layer = layers.adopt_upper(upper, overlay="trusted")
    assert layer is not None
    view = View(layers, [layer])
    digest = view.content_digest("a")
    fresh = open_layers(store)
    entries = {entry.path: entry.digest for entry in fresh.index(layer)}
    assert entries == {"a": hashlib.sha256(b"aa").digest(), "b": b""}
    assert View(fresh, [layer]).content_digest("a") == digest
    whole = View(fresh, [layer]).content_digest("")
    assert all(entry.digest for entry in open_layers(store).index(layer))
    assert View(layers, [layer]).content_digest("") == whole


def test_many_files_are_digested_in_threads(layers: LayerStore, tmp_path: Path) -> None:
    upper = _upper(tmp_path)
    contents = {f"f{number}": os.urandom(200_000) for number in range(40)}
    contents["big"] = os.urandom(3 << 20)
    for name, data in contents.items():
        (upper / name).write_bytes(data)
    layer = layers.adopt_upper(upper, overlay="trusted")
    assert layer is not None
    digests = layers.file_digests(layer, layers.index(layer))
    assert digests == {name: hashlib.sha256(data).digest() for name, data in contents.items()}


# -- trouble


def test_a_layer_that_is_not_there_is_an_error(layers: LayerStore) -> None:
    with pytest.raises(StoreError, match="not in the store"):
        layers.get("x-none")


def test_a_removed_layer_leaves_nothing(layers: LayerStore, store: Store) -> None:
    layer = _tar_layer(layers, {"a": b"x"})
    remote = _pull(layers, _foreign_tar(a=b"hello"), local=False)
    layers.directory(layer)
    layers.remove(layer)
    layers.remove(remote)
    assert os.listdir(store.root / "layers") == []
    with pytest.raises(StoreError):
        layers.get(layer.id)


def test_a_lost_or_damaged_index_is_made_again(layers: LayerStore, store: Store) -> None:
    layer = _tar_layer(layers, {"a": b"x"})
    path = store.root / "layers" / layer.id.replace(":", "-") / "index"
    before = list(layers.index(layer))
    for damage in (b"", b"nonsense" * 9, path.read_bytes()[:-3]):
        path.write_bytes(damage)
        again = list(open_layers(store).index(layer))
        assert [(e.path, e.size, e.offset) for e in again] == [(e.path, e.size, e.offset) for e in before]
    path.unlink()
    assert len(open_layers(store).index(layer)) == 1


def test_a_step_whose_index_is_lost_is_forgotten(layers: LayerStore, store: Store, tmp_path: Path) -> None:
    upper = _upper(tmp_path)
    (upper / "a").write_bytes(b"aa")
    layer = layers.adopt_upper(upper, overlay="trusted")
    assert layer is not None
    (store.root / "layers" / layer.id / "index").unlink()
    with pytest.raises(StoreError, match="damaged"):
        open_layers(store).index(layer)
    assert store.records.find(layer.id) is None
    for name in os.listdir(store.root / "work"):
        layers.dispose(store.root / "work" / name)


def test_a_tar_that_changed_is_noticed_when_it_is_compressed(layers: LayerStore, store: Store) -> None:
    layer = _tar_layer(layers, {"a": b"x" * 600})
    path = store.root / "layers" / layer.id.replace(":", "-") / "tar"
    raw = bytearray(path.read_bytes())
    raw[600] ^= 1
    path.write_bytes(raw)
    with pytest.raises(StoreError, match="damaged"):
        layers.blob(layer, GZIP)
    for name in os.listdir(store.root / "work"):
        layers.dispose(store.root / "work" / name)


def test_a_file_that_changes_while_it_is_copied_fails_the_build(layers: LayerStore, tmp_path: Path) -> None:
    context = tmp_path / "context"
    context.mkdir()
    (context / "a").write_bytes(b"before" * 20_000)
    tree = HostTree(str(context))
    tree.content_digest("")
    node = tree.lookup("a")
    assert node is not None
    status = (context / "a").stat()
    (context / "a").write_bytes(b"behind" * 20_000)
    os.utime(context / "a", ns=(status.st_atime_ns, status.st_mtime_ns))  # it even hides that it changed
    with pytest.raises(ContextError, match="file changed during the build: a"), layers.new_tar() as tar:
        tar.add(node.entry, tree.open(node))


def test_a_small_file_is_read_once_for_its_digest_and_its_copy(layers: LayerStore, tmp_path: Path) -> None:
    context = tmp_path / "context"
    context.mkdir()
    (context / "a").write_bytes(b"before")
    tree = HostTree(str(context))
    tree.content_digest("")
    node = tree.lookup("a")
    assert node is not None
    (context / "a").unlink()
    with layers.new_tar() as tar:
        tar.add(node.entry, tree.content(node))
        layer = tar.commit()
    entry = layers.index(layer).get("a")
    assert entry is not None
    with layers.open_file(layer, entry) as stream:
        assert stream.read() == b"before"


def test_the_check_finds_what_is_wrong(tmp_path: Path) -> None:
    kinds: list[Literal["tar", "index", "blob", "gone"]] = ["tar", "index", "blob", "gone"]
    for number, kind in enumerate(kinds):
        with Store.open(tmp_path / str(number)) as store:
            layers = open_layers(store)
            layer = _tar_layer(layers, {"a": b"x"})
            blob = layers.blob(layer, GZIP)
            assert store.verify() == []
            directory = store.root / "layers" / layer.id.replace(":", "-")
            match kind:
                case "tar":
                    (directory / "tar").write_bytes(b"x" * layer.size)
                case "index":
                    (directory / "index").write_bytes(b"")
                case "blob":
                    store.content.path(blob.digest).write_bytes(b"x" * blob.size)
                case "gone":
                    (directory / "tar").unlink()
            (problem,) = store.verify()
            assert (blob.digest if kind == "blob" else layer.id) in problem
