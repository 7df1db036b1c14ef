"""Layers of the store and their forms, made from one another when they are asked for.

    layers/<name>/index      all entries (`snapshot.index`)
    layers/<name>/tar        the uncompressed tar, read at random by `Entry.offset`
    layers/<name>/dir*       unpacked, as a lower directory of overlay mounts
    layers/<name>/digests    digests of files that were computed later; may be lost
    layers/<name>/lock       held by whoever is making a form of this layer
    blobs/…                  compressed

A layer that a file operation wrote or that was pulled is born as tar or blob, and its id is its diff ID.
One that a step left is born as directory, and its id is random: its diff ID is known once somebody needs it.

Forms other than blobs are not synced to disk when made. After a crash of the whole machine `open_layers`
looks at the forms made last (file systems that order data before metadata leave short files behind) and
drops what is not whole.
"""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

import msgspec

from anyarch.archive.entry import Kind
from anyarch.errors import PathNotFound, StoreError
from anyarch.snapshot.dirops import LocalDirOps
from anyarch.snapshot.forms import FormMaker
from anyarch.snapshot.index import decode_index, encode_index
from anyarch.snapshot.slices import FileSlice, SharedFile, reader_of
from anyarch.snapshot.upper import drop_roots, settle
from anyarch.spec.digest import Digest
from anyarch.store.failure import disk_errors
from anyarch.store.tree import move_tree

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from anyarch.archive.compression import Compression
    from anyarch.archive.entry import Entry
    from anyarch.snapshot.dirops import DirOps, Overlay
    from anyarch.snapshot.index import LayerIndex
    from anyarch.snapshot.tarlayer import TarLayer
    from anyarch.snapshot.tree import Node, TreeView
    from anyarch.spec.oci import Descriptor
    from anyarch.store.layers import LayerRow
    from anyarch.store.store import Store

__all__ = ["BLOBS", "LAYOUT", "Layer", "LayerStore", "open_layers"]

CACHED = "cache:"
"""Begins the source of a layer that a step made and that was taken from a build cache."""

LAYOUT = "layout:"
BLOBS = "blobs:"
"""Begins the source of a layer that is in an OCI layout directory."""

_COMPARED = 1 << 20
_CACHED_ENTRIES = 300_000  # entries of indexes kept in memory, about 150 MB at worst
_UNPACKING = 4  # layers at a time, at most: one a core, but a disk serves only a few well


class Layer(msgspec.Struct, frozen=True):
    """`id` is the diff ID when that was known at birth, else `x-<random hex>`. `size` in bytes: of the
    tar, of the files of a step's result, or of the blob while a pulled layer is only remote. Seconds since
    the epoch."""

    id: str
    size: int
    created_at: float


def open_layers(store: Store, *, dirops: DirOps | None = None) -> LayerStore:
    """The layers of `store`; `dirops` does what needs privilege (default: this process does). Clears what
    an earlier process left and `Store.open` could not remove, and what a crash of the machine left half
    written."""
    from anyarch.snapshot.recovery import recover

    layers = LayerStore(store, dirops or LocalDirOps())
    store.remove = layers.dirops.remove
    recover(store, layers.dirops)
    return layers


class LayerStore:
    """Thread-safe, for any number of processes. Raises `StoreError` and what is below it,
    `DigestMismatch`, and `MalformedArchive` for what was pulled."""

    def __init__(self, store: Store, dirops: DirOps) -> None:
        self.store = store
        self.dirops = dirops
        self._forms = FormMaker(store, dirops)
        self._indexes: dict[str, LayerIndex] = {}
        self._indexes_lock = threading.Lock()
        self._cached_entries = 0
        self._contents: dict[str, tuple[str | None, bytes | None]] = {}
        self._reads_all = os.geteuid() == 0

    # -- birth

    def new_tar(self, *, description: str = "") -> TarLayer:
        """A layer to be written entry by entry."""
        from anyarch.snapshot.tarlayer import TarLayer

        return TarLayer(self.store, description)

    def add_blob(
        self, descriptor: Descriptor, diff_id: str, *, fetch_from: str = "", description: str = ""
    ) -> Layer:
        """A layer of an image, whose bytes may be absent. `fetch_from` is the reference text where they
        can be had; all that were ever named are remembered."""
        self.store.records.add_pulled(
            diff_id, descriptor, diff_id=Digest.parse(diff_id), reference=fetch_from, description=description
        )
        return self.get(diff_id)

    def add_cached(
        self,
        descriptor: Descriptor,
        diff_id: str,
        *,
        fetch_from: str,
        is_base: bool = False,
        created_at: float | None = None,
    ) -> Layer:
        """A layer that a build cache has. `fetch_from` as for `add_blob`, or `layout:` and the directory of
        an OCI layout; `is_base`: the layer came with an image, a step did not make it. One that is here stays
        as it is."""
        row = self.store.records.find(diff_id)
        is_here = row is not None and self._forms.is_local(row)
        if not is_here and (row is None or all(at != fetch_from for _, at in self.remote(self.get(diff_id)))):
            self.store.records.add_pulled(
                diff_id,
                descriptor,
                diff_id=Digest.parse(diff_id),
                reference=fetch_from if is_base else CACHED + fetch_from,
                description="from a build cache",
                created_at=created_at,
            )
        return self.get(diff_id)

    def is_base(self, layer: Layer) -> bool:
        """Whether the layer came with an image."""
        return any(not name.startswith(CACHED) for _, name in self.store.records.sources(layer.id))

    def adopt_upper(
        self,
        upper: Path,
        *,
        overlay: Overlay,
        below: TreeView | None = None,
        since_ns: int = 0,
        description: str = "",
    ) -> Layer | None:
        """Make the upper directory of a step a layer, by renaming it into the store (same file system).

        `below` is the tree that the step ran on, from `since_ns` on: what is here as it is there has no
        entry, and no directory is opaque (`snapshot.upper`). Without it all is kept but the root. `overlay`
        tells how opaque directories are marked. None when nothing changed: `upper` stays where it is.
        """
        scanned = self.dirops.scan(str(upper), overlay=overlay)
        if below is None:
            entries = drop_roots(scanned)
        else:
            entries, amendment = settle(
                scanned, below, partial(_has_content, upper, below), since_ns=since_ns
            )
            if entries and amendment:
                self.dirops.amend(str(upper), amendment, overlay=overlay)
        if not entries:
            return None
        layer = f"x-{os.urandom(16).hex()}"
        size = sum(entry.size for entry in entries)
        opaque = any(entry.opaque for entry in entries)
        form = f"dir-{overlay}" if opaque else "dir"
        raw = encode_index(entries)
        index = self.store.unfinished_file()
        with disk_errors(index):
            Path(index).write_bytes(raw)
        directory = self.store.layer_path(layer)

        def place(_: Iterable[str]) -> None:
            with disk_errors(directory):
                os.makedirs(directory, exist_ok=True)
                move_tree(upper, f"{directory}/{form}")
                os.rename(index, f"{directory}/index")

        try:
            self.store.records.publish(
                layer, {"index": len(raw), form: size}, place=place, size=size, description=description
            )
        finally:
            Path(index).unlink(missing_ok=True)
        return self.get(layer)

    # -- what there is

    def get(self, layer_id: str) -> Layer:
        """`StoreError` when there is none."""
        row = self.store.records.get(layer_id)
        return Layer(str(layer_id), row.size, row.created_at)

    def missing(self, layers: Iterable[Layer]) -> list[Layer]:
        """Those whose content is only remote: fetch a blob of `remote(layer)` into the content store
        before use."""
        return [layer for layer in layers if not self._forms.is_local(self.store.records.get(layer.id))]

    def remote(self, layer: Layer) -> list[tuple[Descriptor, str]]:
        """Blobs of a pulled layer and where they can be fetched, latest seen first: references, or `layout:`
        and a directory."""
        blobs = {blob.descriptor.digest: blob.descriptor for blob in self.store.records.blobs(layer.id)}
        return [
            (blobs[digest], name.removeprefix(CACHED))
            for digest, name in self.store.records.sources(layer.id)
            if digest in blobs
        ]

    # -- content

    def index(self, layer: Layer) -> LayerIndex:
        """All entries. A pulled layer is unpacked to its tar for that; `BlobNotFound` when it is only
        remote."""
        with self._indexes_lock:
            index = self._indexes.get(layer.id)
        if index is None:
            index = self._load_index(layer.id)
            with self._indexes_lock:
                if layer.id not in self._indexes:
                    self._indexes[layer.id] = index
                    self._cached_entries += len(index)
                index = self._indexes[layer.id]
                while len(self._indexes) > 1 and self._cached_entries > _CACHED_ENTRIES:
                    self._forget_index(next(iter(self._indexes)))
        return index

    def _forget_index(self, layer: str) -> None:
        index = self._indexes.pop(layer, None)
        self._cached_entries -= len(index) if index is not None else 0

    def open_file(self, layer: Layer, entry: Entry) -> BinaryIO:
        """Content of a FILE of the layer, or of a HARDLINK to one. Reads from the tar or the directory;
        follows no links. `PathNotFound` for other kinds."""
        if entry.kind is Kind.HARDLINK:
            target = self.index(layer).get(entry.linkname)
            if target is None:
                raise PathNotFound(f"{entry.path}: hard link to {entry.linkname}, which is not in the layer")
            entry = target
        if entry.kind is not Kind.FILE:
            raise PathNotFound(f"{entry.path} is no regular file")
        return cast(BinaryIO, self._open_content(layer, entry))

    def open_files(
        self, layer: Layer, entries: Iterable[Entry]
    ) -> Iterator[tuple[Entry, Callable[[int, int], bytes]]]:
        """Each FILE entry of the layer with `read(offset, size)`, good until the next one is asked for: what
        lies in the layer's tar is read by one descriptor."""
        tar, _ = self._content_of(layer.id)
        with SharedFile(tar or "") as shared:
            for entry in entries:
                if tar is not None and entry.offset >= 0:
                    yield entry, shared.reader(entry.offset, entry.size)
                else:
                    with self.open_file(layer, entry) as stream:
                        yield entry, reader_of(stream)

    def file_digests(self, layer: Layer, entries: Iterable[Entry]) -> dict[str, bytes]:
        """sha256 (32 bytes) of FILE entries by path; what had to be computed is kept for the next time."""
        from anyarch.snapshot.filehash import hash_files

        index = self.index(layer)
        known: dict[str, bytes] = {}
        unknown: list[Entry] = []
        for entry in entries:
            latest = index.get(entry.path) or entry
            if latest.digest:
                known[entry.path] = latest.digest
            else:
                unknown.append(latest)
        if unknown:
            computed = hash_files(unknown, lambda entry: self._open_content(layer, entry))
            index.learn(computed)
            self._keep_digests(layer.id, index)
            known.update(computed)
        return known

    def directory(self, layer: Layer, *, below: Sequence[Layer] = (), overlay: Overlay | None = None) -> Path:
        """The layer as a lower directory of an overlay mount, unpacked when it is not yet (once, whoever
        asks).

        `below` are the layers it will lie on, lowest first: directories that the layer only puts something
        into must show as they are there. `overlay` is the kind of mount (default: that of this user's
        steps); it matters for layers that replace directories. The answer may differ for other values;
        what it names never changes.
        """
        from anyarch.snapshot.view import View

        kind = overlay or self.dirops.overlay
        self._unpack(layer, kind)
        index = self.index(layer)
        parents: list[Entry] = []
        if index.implicit and below:
            tree = View(self, below)
            found = [tree.lookup(path) for path in sorted(index.implicit)]
            parents = [node.entry for node in found if node is not None and node.entry.kind is Kind.DIRECTORY]
        return Path(self._forms.directory(layer.id, kind, parents, has_opaque=index.has_opaque))

    def directories(self, layers: Sequence[Layer], *, overlay: Overlay | None = None) -> list[Path]:
        """`directory` of each layer of a chain, lowest first."""
        self.unpack(layers, overlay=overlay)
        return [
            self.directory(layer, below=layers[:depth], overlay=overlay) for depth, layer in enumerate(layers)
        ]

    def unpack(self, layers: Iterable[Layer], *, overlay: Overlay | None = None) -> None:
        """Unpack those that are only blobs yet, several at a time: the kernel's work of making the files is
        most of it. Others are left as they are."""
        packed = [layer for layer in layers if self._is_packed(self.store.records.get(layer.id))]
        if len(packed) < 2:
            return  # `directory` does one alone
        from concurrent.futures import ThreadPoolExecutor

        from anyarch.archive.parallel import usable_cpus

        kind = overlay or self.dirops.overlay
        with ThreadPoolExecutor(min(usable_cpus(), _UNPACKING), "anyarch-unpack") as pool:
            for _ in pool.map(lambda layer: self._unpack(layer, kind), packed):
                continue

    def _unpack(self, layer: Layer, overlay: Overlay) -> None:
        """Directory and index in one pass, if the layer is only a blob."""
        row = self.store.records.get(layer.id)
        blob = self._forms.local_blob(layer.id) if self._is_packed(row) else None
        if blob is not None:
            self._forms.unpack_blob(row, blob, overlay)

    @staticmethod
    def _is_packed(row: LayerRow) -> bool:
        return "index" not in row.forms and "tar" not in row.forms

    # -- blobs

    def diff_id(self, layer: Layer) -> Digest:
        """Digest of the uncompressed tar, computed when it is not known."""
        return self._forms.diff_id(layer.id)

    def blob(self, layer: Layer, compression: Compression, *, force: bool = False) -> Descriptor:
        """A blob of the layer. A pulled layer keeps the one it came with (its bytes may be remote) unless
        `force` asks for another type of compression; else it is made, in one pass, once whoever asks, and
        kept."""
        return self._forms.blob(layer.id, compression, force=force)

    def known_blob(self, layer: Layer) -> Descriptor | None:
        """A blob of the layer that there is already, here or where it was pulled from."""
        return self._forms.known_blob(layer.id)

    # -- the end

    def dispose(self, path: str | os.PathLike[str]) -> None:
        """Remove a directory tree that steps worked in, whoever its files belong to."""
        self.dirops.remove(os.fspath(path))

    def remove(self, layer: Layer) -> None:
        """Forget a layer and remove its forms (not its blobs)."""
        source = self.store.layer_path(layer.id)
        target = f"{self.store.work_dir()}/gone"

        def take_away() -> None:
            with disk_errors(source):
                try:
                    move_tree(source, target)
                except FileNotFoundError:
                    return  # a layer that was only remote

        self.store.records.drop(layer.id, take_away=take_away)
        with self._indexes_lock:
            self._forget_index(layer.id)
            self._contents.pop(layer.id, None)
        self.dirops.remove(os.path.dirname(target))

    # -- inside

    def _load_index(self, layer: str) -> LayerIndex:
        row = self.store.records.get(layer)
        directory = self.store.layer_path(layer)
        if "index" in row.forms:
            try:
                index = decode_index(_read(f"{directory}/index"))
            except (StoreError, FileNotFoundError):
                self.store.records.drop_form(layer, "index")
                index = self._forms.make_index(layer)
        else:
            index = self._forms.make_index(layer)
        try:
            index.unpack_digests(_read(f"{directory}/digests"))
        except FileNotFoundError:
            return index  # the usual case
        return index

    def _open_content(self, layer: Layer, entry: Entry) -> FileSlice:
        tar, directory = self._content_of(layer.id)
        if tar is not None and entry.offset >= 0:
            return FileSlice(tar, entry.offset, entry.size)
        if directory is not None:
            path = b"%b/%b" % (directory, entry.path.encode("utf-8", "surrogateescape"))
            if self._reads_all or os.access(path, os.R_OK):
                return FileSlice(path, 0, entry.size)
        # Remote content, or files of other ids that an ordinary user may not read: the tar has them all.
        again = self._forms.make_tar(layer.id).get(entry.path)
        self._contents.pop(layer.id, None)
        if again is None or again.offset < 0:
            raise StoreError(f"{entry.path} is not in layer {layer.id}")
        return FileSlice(f"{self.store.layer_path(layer.id)}/tar", again.offset, again.size)

    def _content_of(self, layer: str) -> tuple[str | None, bytes | None]:
        """Where contents of a layer are read: its tar, a directory."""
        found = self._contents.get(layer)
        if found is None:
            row = self.store.records.get(layer)
            path = self.store.layer_path(layer)
            directory = next((form for form in sorted(row.forms) if form.startswith("dir")), None)
            found = (
                f"{path}/tar" if "tar" in row.forms else None,
                None if directory is None else os.fsencode(f"{path}/{directory}"),
            )
            if found != (None, None):
                self._contents[layer] = found
        return found

    def _keep_digests(self, layer: str, index: LayerIndex) -> None:
        path = f"{self.store.layer_path(layer)}/digests"
        unfinished = self.store.unfinished_file()
        with disk_errors(path):
            with suppress(FileNotFoundError):  # nobody kept any yet
                index.unpack_digests(_read(path))
            Path(unfinished).write_bytes(index.pack_digests())
            os.rename(unfinished, path)


def _has_content(upper: Path, below: TreeView, entry: Entry, node: Node) -> bool:
    """Whether the file `entry` of `upper` has the content of the file `node` of `below`. One that this
    process may not read counts as changed."""
    path = b"%b/%b" % (os.fsencode(upper), entry.path.encode("utf-8", "surrogateescape"))
    if not os.access(path, os.R_OK):
        return False
    with open(path, "rb") as here, below.open(node) as there:
        while data := here.read(_COMPARED):
            if data != there.read(_COMPARED):
                return False
        return not there.read(1)


def _read(path: str) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        size = os.fstat(fd).st_size
        parts = []
        while data := os.read(fd, max(size, 4096)):
            parts.append(data)
        return b"".join(parts)
    finally:
        os.close(fd)
