"""eStargz: gzip of a layer's tar in which every file can be had alone, with a table of contents at the end.

The form is that of stargz-snapshotter's `docs/estargz.md`: gzip members of which a new one begins where a
file's content does (and every 4 MiB of it), then one that holds a tar with `stargz.index.json`, then a footer
of 51 bytes that tells where that one begins. The layer's own tar, end mark included, comes out unchanged
before the table, so the digest of all that comes out (the diff ID of such a layer) is another one.
"""

from __future__ import annotations

import hashlib
import os
import threading
from base64 import b64encode
from typing import TYPE_CHECKING, Any

from anyarch.archive.compression import member_function, thread_count
from anyarch.archive.entry import Entry, Kind
from anyarch.archive.parallel import Ordered
from anyarch.archive.pipeline import LayerSummary
from anyarch.archive.tar import TarWriter, read_tar
from anyarch.errors import MalformedArchive, NotSupported
from anyarch.spec.digest import Digest

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

__all__ = ["CHUNK_SIZE", "TOC_DIGEST", "TOC_NAME", "UNCOMPRESSED_SIZE", "EstargzPipe", "footer"]

TOC_NAME = "stargz.index.json"
TOC_DIGEST = "containerd.io/snapshot/stargz/toc.digest"
UNCOMPRESSED_SIZE = "io.containers.estargz.uncompressed-size"
CHUNK_SIZE = 4 << 20
_AHEAD = 1 << 20  # more than the reader of tars reads ahead
_READ = 1 << 16  # buffered: a pipe gives what there is, and where members begin must not depend on that

_TYPES = {
    Kind.FILE: "reg",
    Kind.DIRECTORY: "dir",
    Kind.SYMLINK: "symlink",
    Kind.HARDLINK: "hardlink",
    Kind.CHAR_DEVICE: "char",
    Kind.BLOCK_DEVICE: "block",
    Kind.FIFO: "fifo",
}


def footer(toc_offset: int) -> bytes:
    """An empty gzip member whose extra field says where the table of contents begins."""
    field = b"%016xSTARGZ" % toc_offset
    extra = b"SG" + len(field).to_bytes(2, "little") + field
    head = b"\x1f\x8b\x08\x04\x00\x00\x00\x00\x00\xff" + len(extra).to_bytes(2, "little") + extra
    return head + b"\x01\x00\x00\xff\xff" + bytes(8)


class _Member:
    """Bytes that become one gzip member, and the entry of the table that begins with them."""

    __slots__ = ("data", "entry")

    def __init__(self, data: bytes, entry: dict[str, Any] | None) -> None:
        self.data = data
        self.entry = entry


class EstargzPipe:
    """As `pipeline.LayerPipe`: takes the bytes of a tar, gives the blob to `sink` and sums up both.

    `annotations` are those that a layer's descriptor has to carry, known after `close`. Raises
    `MalformedArchive` and, for files with holes, `NotSupported`.
    """

    def __init__(
        self, level: int | None, sink: Callable[[bytes], object], *, threads: int | None = None
    ) -> None:
        self._make = member_function(level)
        self._sink = sink
        self._threads = thread_count(threads)
        self._tar_hash = hashlib.sha256()
        self._tar_size = 0
        self._blob_hash = hashlib.sha256()
        self._size = 0
        self._entries: list[dict[str, Any]] = []
        self._error: BaseException | None = None
        self._reader, self._writer = os.pipe2(os.O_CLOEXEC)
        self._thread = threading.Thread(target=self._run, name="anyarch-estargz", daemon=True)
        self._thread.start()
        self.annotations: dict[str, str] = {}
        self._summary: LayerSummary | None = None

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Take all of `data`."""
        with memoryview(data) as raw, raw.cast("B") as view:
            self._tar_hash.update(view)
            self._tar_size += len(view)
            left = view
            try:
                while left:
                    left = left[os.write(self._writer, left) :]
            except BrokenPipeError:
                self._end()
                raise self._error or MalformedArchive("the tar has something after its end") from None
            return len(view)

    def close(self) -> LayerSummary:
        """Finish the blob; all of it has been delivered on return. Idempotent."""
        if self._summary is not None:
            return self._summary
        self._end()
        if self._error is not None:
            raise self._error
        toc = self._table()
        toc_offset = self._size
        packed: list[bytes] = []
        tar = TarWriter(packed.append)
        tar.add(Entry(TOC_NAME, Kind.FILE, size=len(toc)), toc)
        tar.close()
        whole = b"".join(packed)
        self._tar_hash.update(whole)
        self._tar_size += len(whole)
        self._deliver((None, self._make(whole)))
        self._deliver((None, footer(toc_offset)))
        self.annotations = {
            TOC_DIGEST: f"sha256:{hashlib.sha256(toc).hexdigest()}",
            UNCOMPRESSED_SIZE: str(self._tar_size),
        }
        self._summary = LayerSummary(
            Digest.from_hex(self._tar_hash.hexdigest()),
            self._tar_size,
            Digest.from_hex(self._blob_hash.hexdigest()),
            self._size,
        )
        return self._summary

    def __enter__(self) -> EstargzPipe:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end()

    # inside ---------------------------------------------------------------------------------------

    def _end(self) -> None:
        """Let the thread come to the end of what was written, and wait for it."""
        if self._writer >= 0:
            os.close(self._writer)
            self._writer = -1
            self._thread.join()

    def _run(self) -> None:
        try:
            with open(self._reader, "rb", buffering=_READ) as raw:
                self._split(_Recorder(raw))
        except BaseException as error:  # raised again where it is written or closed
            self._error = error

    def _split(self, source: _Recorder) -> None:
        """Cut the tar where contents begin, and have the pieces compressed in order."""
        work = Ordered[_Member, "tuple[dict[str, Any] | None, bytes]"](
            lambda member: (member.entry, self._make(member.data)),
            self._deliver,
            threads=self._threads if self._threads > 1 else 0,
            name="anyarch-estargz-gzip",
        )
        started: dict[str, Any] | None = None

        def cut(position: int, entry: dict[str, Any] | None) -> None:
            nonlocal started
            data = source.take(position)
            if data:
                work.submit(_Member(data, started))
            started = entry

        try:
            for entry, content in read_tar(source, whiteouts=False):
                if entry.path == TOC_NAME:
                    raise NotSupported(
                        f"a layer with a file /{TOC_NAME} cannot be made an eStargz",
                        hint="that name is the format's own; remove the file or choose compression=gzip",
                    )
                item = _toc_entry(entry)
                self._entries.append(item)
                if source.held > CHUNK_SIZE + _AHEAD:
                    cut(source.position - _AHEAD, None)  # a long run of entries without content
                if entry.kind is not Kind.FILE:
                    continue
                if not entry.size:
                    item["digest"] = f"sha256:{hashlib.sha256().hexdigest()}"
                    continue
                if content.segments is not None or entry.offset < 0:
                    raise NotSupported(
                        f"/{entry.path} is a sparse file, which an eStargz cannot hold",
                        hint="choose compression=gzip or zstd, or leave out force-compression",
                    )
                whole = hashlib.sha256()
                chunk, done = item, 0
                while done < entry.size:
                    cut(entry.offset + done, chunk)
                    size = min(CHUNK_SIZE, entry.size - done)
                    digest = hashlib.sha256()
                    for data in _exactly(content, size):
                        digest.update(data)
                        whole.update(data)
                    if done:
                        chunk["chunkOffset"] = done
                    if entry.size - done >= CHUNK_SIZE:
                        chunk["chunkSize"] = size
                    chunk["chunkDigest"] = f"sha256:{digest.hexdigest()}"
                    done += size
                    if done < entry.size:
                        chunk = {"name": item["name"], "type": "chunk"}
                        self._entries.append(chunk)
                item["digest"] = f"sha256:{whole.hexdigest()}"
            while source.read(1 << 20):
                if source.held > CHUNK_SIZE:
                    cut(source.position, None)
            cut(source.position, None)
            work.close()
        except BaseException:
            work.abort()
            raise

    def _deliver(self, made: tuple[dict[str, Any] | None, bytes]) -> None:
        entry, data = made
        if entry is not None:
            entry["offset"] = self._size
        self._blob_hash.update(data)
        self._size += len(data)
        self._sink(data)

    def _table(self) -> bytes:
        import msgspec

        return msgspec.json.encode({"version": 1, "entries": self._entries})


class _Recorder:
    """A stream that keeps what was read of it until it is taken."""

    def __init__(self, source: Any) -> None:
        self._source = source
        self._parts: list[bytes] = []
        self._taken = 0
        self.held = 0

    @property
    def position(self) -> int:
        """How far the stream has been read."""
        return self._taken + self.held

    def read(self, size: int, /) -> bytes:
        data: bytes = self._source.read(size)
        self._parts.append(data)
        self.held += len(data)
        return data

    def take(self, position: int) -> bytes:
        """What lies between the last `take` and `position`."""
        data = b"".join(self._parts)
        size = position - self._taken
        rest = data[size:]
        self._parts = [rest] if rest else []
        self._taken = position
        self.held = len(rest)
        return data[:size]


def _exactly(content: Any, size: int) -> Any:
    while size:
        data = content.read(min(size, 1 << 20))
        if not data:
            raise MalformedArchive("the tar ends within a file")
        size -= len(data)
        yield data


def _toc_entry(entry: Entry) -> dict[str, Any]:
    name = entry.path.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    item: dict[str, Any] = {
        "name": (f"{name}/" if name else "./") if entry.kind is Kind.DIRECTORY else name,
        "type": _TYPES[entry.kind],
    }
    if entry.size:
        item["size"] = entry.size
    if entry.mtime_ns:
        from anyarch.spec.timestamp import format_time

        item["modtime"] = format_time(entry.mtime_ns // 1_000_000_000)
    if entry.linkname:
        item["linkName"] = entry.linkname.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    numbers = {"mode": entry.mode, "uid": entry.uid, "gid": entry.gid}
    item |= {key: value for key, value in numbers.items() if value}
    if entry.kind in (Kind.CHAR_DEVICE, Kind.BLOCK_DEVICE):
        item["devMajor"], item["devMinor"] = entry.major, entry.minor
    if entry.xattrs:
        item["xattrs"] = {
            key.encode("utf-8", "surrogateescape").decode("utf-8", "replace"): b64encode(value).decode()
            for key, value in entry.xattrs
        }
    return item
