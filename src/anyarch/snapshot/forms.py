"""Making one form of a layer from another, once however many threads and processes ask for it.

Whoever makes a form holds the layer's lock file and looks again whether the form is there; what is made is
complete before it gets its name, so even without the lock only work would be lost.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO

from anyarch.errors import BlobNotFound, StoreError
from anyarch.snapshot.dirops import DigestingReader
from anyarch.snapshot.index import LayerIndex, decode_index, encode_index
from anyarch.spec.digest import Digest
from anyarch.spec.media import layer_compression
from anyarch.spec.oci import Descriptor
from anyarch.store.failure import disk_errors, storage_error
from anyarch.store.tree import move_tree

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from anyarch.archive.compression import Compression
    from anyarch.archive.entry import Entry
    from anyarch.snapshot.dirops import DirOps, Overlay
    from anyarch.store.layers import LayerRow
    from anyarch.store.store import Store

__all__ = ["TOC_DIGEST", "UNCOMPRESSED", "FormMaker"]

_CHUNK = 1 << 20

UNCOMPRESSED = "containerd.io/uncompressed"
"""Annotation of a blob (eStargz) that does not give the layer's tar as it is: the digest of what it gives."""
TOC_DIGEST = "containerd.io/snapshot/stargz/toc.digest"


class FormMaker:
    """Thread-safe; layers are named by their ids."""

    def __init__(self, store: Store, dirops: DirOps) -> None:
        self._store = store
        self._dirops = dirops

    # -- what there is

    def local_blob(self, layer: str) -> Descriptor | None:
        """A blob of the layer whose bytes are here, and give its tar."""
        for blob in self._store.records.blobs(layer):
            gives_more = blob.compression.startswith("estargz:")
            if not gives_more and self._store.content.has(blob.descriptor.digest):
                return blob.descriptor
        return None

    def is_local(self, row: LayerRow) -> bool:
        """Whether its content can be had without fetching."""
        return "tar" in row.forms or _directory_of(row) is not None or self.local_blob(row.id) is not None

    # -- index and tar

    def make_index(self, layer: str) -> LayerIndex:
        """The index of a layer that has none, from its tar or blob; `BlobNotFound` when neither is here."""
        with self._making(layer) as row:
            if "index" in row.forms:
                return self._read_index(layer)
            if "tar" not in row.forms:
                if self.local_blob(layer) is None and _directory_of(row) is not None:
                    raise self._damaged(layer)
                return self._make_tar(row)
            from anyarch.archive.fold import fold
            from anyarch.archive.tar import read_tar

            with self._open(f"{self._store.layer_path(layer)}/tar") as file:
                entries = fold(entry for entry, _ in read_tar(file))
            self._publish_files(row, {}, entries)
            return LayerIndex(entries)

    def make_tar(self, layer: str) -> LayerIndex:
        """Make sure that the tar is there; answers the index with offsets in it."""
        with self._making(layer) as row:
            if "tar" not in row.forms:
                return self._make_tar(row)
            return self._read_index(layer)

    def _make_tar(self, row: LayerRow) -> LayerIndex:
        tar = self._store.unfinished_file()
        try:
            with disk_errors(tar), open(tar, "xb", buffering=0) as file:
                blob = self.local_blob(row.id)
                directory = _directory_of(row)
                if blob is not None:
                    entries, diff_id = self._unpack_tar(row, blob, _writer(file.fileno(), tar))
                elif directory is not None:
                    digest = hashlib.sha256()
                    write = _writer(file.fileno(), tar)

                    def sink(data: bytes) -> None:
                        digest.update(data)
                        write(data)

                    path = f"{self._store.layer_path(row.id)}/{directory}"
                    entries = self._dirops.pack(path, list(self._read_index(row.id)), sink)
                    diff_id = Digest.from_hex(digest.hexdigest())
                    self._check_diff_id(row, diff_id)
                else:
                    raise self._remote(row.id)
                size = os.fstat(file.fileno()).st_size
            self._publish_files(row, {"tar": (tar, size)}, entries, diff_id=diff_id)
        finally:
            _unlink(tar)
        return LayerIndex(entries)

    def _unpack_tar(
        self, row: LayerRow, blob: Descriptor, write: Callable[[bytes], None]
    ) -> tuple[list[Entry], Digest]:
        from anyarch.archive.compression import open_decompressed
        from anyarch.archive.fold import fold
        from anyarch.archive.tar import read_tar

        with self._store.content.open(blob.digest) as raw, open_decompressed(raw) as plain:
            reader = DigestingReader(plain, tee=write)
            entries = fold(entry for entry, _ in read_tar(reader))
            return entries, reader.finish(row.diff_id, blob.digest)

    def _publish_files(
        self,
        row: LayerRow,
        files: dict[str, tuple[str, int]],
        entries: list[Entry],
        *,
        diff_id: Digest | None = None,
    ) -> None:
        """Publish `files` (form to path and size) together with a new index."""
        index = self._store.unfinished_file()
        raw = encode_index(entries)
        try:
            with disk_errors(index), open(index, "xb", buffering=0) as file:
                file.write(raw)
            made = {**files, "index": (index, len(raw))}
            directory = self._store.layer_path(row.id)

            def place(_: Iterable[str]) -> None:
                with disk_errors(directory):
                    for form, (path, _size) in made.items():
                        os.rename(path, f"{directory}/{form}")

            self._store.records.publish(
                row.id,
                {form: size for form, (_, size) in made.items()},
                place=place,
                size=row.size,
                diff_id=diff_id,
                replace=True,
            )
        finally:
            _unlink(index)

    # -- directories

    def unpack_blob(self, row: LayerRow, blob: Descriptor, overlay: Overlay) -> None:
        """Directory and index of a layer that is only a blob yet, in one pass."""
        with self._making(row.id) as now:
            if "index" in now.forms or "tar" in now.forms:
                return
            source = str(self._store.content.path(blob.digest))
            self._unpack(now, source, overlay, parents=[], form=None)

    def directory(self, layer: str, overlay: Overlay, parents: Sequence[Entry], *, has_opaque: bool) -> str:
        """Path of the directory whose opaque marks are `overlay`'s and whose directories without an entry
        are like `parents`."""
        special = [
            entry
            for entry in parents
            if (entry.mode, entry.uid, entry.gid, entry.xattrs) != (0o755, 0, 0, ())
        ]
        form = _form(overlay if has_opaque else None, special)
        path = f"{self._store.layer_path(layer)}/{form}"
        row = self._store.records.get(layer)
        if form in row.forms:
            return path
        with self._making(layer) as row:
            if form in row.forms:
                return path
            blob = self.local_blob(layer)
            if "tar" not in row.forms and blob is None:
                self._make_tar(row)
                row = self._store.records.get(layer)
            if "tar" in row.forms or blob is None:
                source = f"{self._store.layer_path(layer)}/tar"
            else:
                source = str(self._store.content.path(blob.digest))
            self._unpack(row, source, overlay, parents=special, form=form)
        return path

    def _unpack(
        self, row: LayerRow, source: str, overlay: Overlay, *, parents: Sequence[Entry], form: str | None
    ) -> None:
        """Unpack and publish as `form` (None: the one that its content wants, along with the index)."""
        staging = f"{self._store.work_dir()}"
        index = self._store.unfinished_file()
        try:
            unpacked = self._dirops.unpack(
                source, f"{staging}/tree", overlay=overlay, parents=parents, expected=row.diff_id
            )
            size = sum(entry.size for entry in unpacked.entries)
            raw = b""
            if form is None:
                form = _form(overlay if any(entry.opaque for entry in unpacked.entries) else None, ())
                raw = encode_index(unpacked.entries)
                with disk_errors(index), open(index, "xb", buffering=0) as file:
                    file.write(raw)
            forms = {form: size, **({"index": len(raw)} if raw else {})}
            directory = self._store.layer_path(row.id)

            def place(new: Iterable[str]) -> None:
                with disk_errors(directory):
                    for name in new:
                        target = f"{directory}/{name}"
                        if name == "index":
                            os.rename(index, target)
                            continue
                        if os.path.lexists(target):  # left by a process that died before its row was written
                            move_tree(target, f"{staging}/old")
                        move_tree(f"{staging}/tree", target)

            self._store.records.publish(row.id, forms, place=place, size=size)
        finally:
            _unlink(index)
            self._dirops.remove(staging)

    # -- blobs

    def diff_id(self, layer: str) -> Digest:
        row = self._store.records.get(layer)
        if row.diff_id is None:
            with self._making(layer) as row:
                if row.diff_id is None:
                    digest = hashlib.sha256()
                    self._stream(row, digest.update)
                    self._store.records.set_diff_id(layer, Digest.from_hex(digest.hexdigest()))
                    row = self._store.records.get(layer)
        return Digest(row.diff_id)

    def blob(self, layer: str, compression: Compression, *, force: bool) -> Descriptor:
        found = self._find_blob(layer, compression, force=force)
        if found is not None:
            return found
        with self._making(layer) as row:
            found = self._find_blob(layer, compression, force=force)
            return found or self._make_blob(row, compression)

    def known_blob(self, layer: str) -> Descriptor | None:
        """A blob that was made of the layer, or that it came with."""
        for blob in self._store.records.blobs(layer):
            if not blob.compression or self._store.content.has(blob.descriptor.digest):
                return blob.descriptor
        return None

    def _find_blob(self, layer: str, compression: Compression, *, force: bool) -> Descriptor | None:
        blobs = self._store.records.blobs(layer)
        key = compression.key
        for blob in blobs:
            if blob.compression == key and self._store.content.has(blob.descriptor.digest):
                return blob.descriptor
        for blob in blobs:
            kind = layer_compression(blob.descriptor.media_type)
            if TOC_DIGEST in (blob.descriptor.annotations or {}):
                kind = "estargz"
            if not blob.compression and (not force or kind == compression.type):
                return blob.descriptor
        return None

    def _make_blob(self, row: LayerRow, compression: Compression) -> Descriptor:
        tar = f"{self._store.layer_path(row.id)}/tar"
        if compression.type == "uncompressed" and "tar" in row.forms:
            diff_id = Digest(row.diff_id or "")
            size = row.forms["tar"]
            digest = self._store.content.adopt(tar, diff_id, size)
        elif compression.type == "estargz":
            return self._make_estargz(row, compression)
        else:
            from anyarch.archive.pipeline import LayerPipe

            with self._store.content.writer() as writer, LayerPipe(compression, writer.write) as pipe:
                self._stream(row, pipe.write)
                summary = pipe.close()
                diff_id = summary.diff_id
                self._check_diff_id(row, diff_id)
                digest = writer.commit()
                size = writer.offset
        descriptor = Descriptor(compression.media_type, digest, size)
        self._store.records.add_blob(row.id, descriptor, compression=compression.key, diff_id=diff_id)
        return descriptor

    def _make_estargz(self, row: LayerRow, compression: Compression) -> Descriptor:
        """A blob of which more comes out than the layer's tar: its descriptor tells the digest of that."""
        from anyarch.archive.estargz import EstargzPipe

        own = hashlib.sha256()
        with (
            self._store.content.writer() as writer,
            EstargzPipe(compression.level, writer.write) as pipe,
        ):

            def both(data: bytes) -> None:
                own.update(data)
                pipe.write(data)

            self._stream(row, both)
            summary = pipe.close()
            diff_id = Digest.from_hex(own.hexdigest())
            self._check_diff_id(row, diff_id)
            digest = writer.commit()
            notes = {**pipe.annotations, UNCOMPRESSED: str(summary.diff_id)}
            descriptor = Descriptor(compression.media_type, digest, writer.offset, annotations=notes)
        self._store.records.add_blob(row.id, descriptor, compression=compression.key, diff_id=diff_id)
        return descriptor

    def _stream(self, row: LayerRow, write: Callable[[bytes], object]) -> None:
        """The uncompressed tar, from whatever form is nearest to it. Nothing is kept."""
        directory = _directory_of(row)
        blob = self.local_blob(row.id) if "tar" not in row.forms else None
        if "tar" in row.forms:
            with self._open(f"{self._store.layer_path(row.id)}/tar") as file:
                while data := file.read(_CHUNK):
                    write(data)
        elif blob is not None:
            from anyarch.archive.compression import open_decompressed

            with self._store.content.open(blob.digest) as raw, open_decompressed(raw) as plain:
                while data := plain.read(_CHUNK):
                    write(data)
        elif directory is not None:
            path = f"{self._store.layer_path(row.id)}/{directory}"
            self._dirops.pack(path, list(self._read_index(row.id)), write)
        else:
            raise self._remote(row.id)

    # -- inside

    @contextmanager
    def _making(self, layer: str) -> Iterator[LayerRow]:
        """Hold the layer's lock; gives its row as it is then."""
        directory = self._store.layer_path(layer)
        with disk_errors(directory):
            os.makedirs(directory, exist_ok=True)
            fd = os.open(f"{directory}/lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield self._store.records.get(layer)
        finally:
            os.close(fd)

    def _open(self, path: str) -> BinaryIO:
        with disk_errors(path):
            return open(path, "rb", buffering=0)

    def _read_index(self, layer: str) -> LayerIndex:
        try:
            with self._open(f"{self._store.layer_path(layer)}/index") as file:
                return decode_index(file.read())
        except StoreError:
            raise self._damaged(layer) from None

    def _check_diff_id(self, row: LayerRow, diff_id: Digest) -> None:
        if row.diff_id is not None and row.diff_id != diff_id:
            raise self._damaged(row.id)

    def _damaged(self, layer: str) -> StoreError:
        """The error for a layer whose form is not what was recorded. Its row goes, so the next build makes
        it anew."""
        directory = self._store.layer_path(layer)
        target = f"{self._store.work_dir()}/damaged"

        def take_away() -> None:
            with disk_errors(directory):
                move_tree(directory, target)

        self._store.records.drop(layer, take_away=take_away)
        return StoreError(
            f"layer {layer} in the store was damaged and has been removed",
            hint="run the build again: it is made anew",
        )

    def _remote(self, layer: str) -> BlobNotFound:
        return BlobNotFound(
            f"the content of layer {layer} is not in the store", hint="it has to be fetched first"
        )


def _form(overlay: Overlay | None, parents: Sequence[Entry]) -> str:
    parts = ["dir"]
    if overlay is not None:
        parts.append(overlay)
    if parents:
        import msgspec

        facts = [(os.fsencode(one.path), one.mode, one.uid, one.gid, one.xattrs) for one in parents]
        parts.append(hashlib.sha256(msgspec.msgpack.encode(facts)).hexdigest()[:16])
    return "-".join(parts)


def _directory_of(row: LayerRow) -> str | None:
    return next((form for form in sorted(row.forms) if form.startswith("dir")), None)


def _writer(fd: int, path: str) -> Callable[[bytes], None]:
    def write(data: bytes) -> None:
        left = memoryview(data)
        try:
            while left:
                left = left[os.write(fd, left) :]
        except OSError as error:
            raise storage_error(error, path) from error

    return write


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return  # it was published, or never made
