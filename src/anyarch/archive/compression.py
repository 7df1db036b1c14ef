"""Compression of layers: the same bytes for any number of CPUs and any size of the writes.

gzip is written as independent members of 1 MiB of input (RFC 1952 section 2.2 allows several), so all
cores work on one layer. Measured on 170 MB of a Debian system, one thread: isal level 2 500 MB/s at 38.2 %,
zlib-ng level 6 81 MB/s at 35.2 %, zlib level 6 28 MB/s at 34.2 %, zstd level 3 300 MB/s at 32.7 %. zstd
without a level is written in the same way, as independent frames of 1 MiB at level 1 (RFC 8878 section 3.1
allows several): as fast as isal and a little smaller. A level that was asked for makes one frame.

How far "the same" reaches was tried under emulation: zlib-ng and zstd give the same bytes on x86-64 (core2 to
AVX2) and arm64. isal level 2 does so on all x86-64 with SSE4.2 (2008), but has other bytes on arm64, so a
gzip layer that both must make alike needs an explicit level. isal level 3 differs even with AVX2.
Reading is in `decompression`.
"""

from __future__ import annotations

import os
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, Protocol

import msgspec

from anyarch.archive.decompression import detect, open_decompressed, zstd_module
from anyarch.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

__all__ = [
    "BLOCK_SIZE",
    "GZIP",
    "UNCOMPRESSED",
    "ZSTD",
    "Compression",
    "Compressor",
    "detect",
    "member_function",
    "open_decompressed",
    "thread_count",
]

Type = Literal["uncompressed", "gzip", "estargz", "zstd"]

BLOCK_SIZE = 1 << 20
"""Input bytes of one gzip member; part of the format of our blobs, so of `Compression.key`."""

_MEDIA_TYPES = {
    "uncompressed": "application/vnd.oci.image.layer.v1.tar",
    "gzip": "application/vnd.oci.image.layer.v1.tar+gzip",
    "estargz": "application/vnd.oci.image.layer.v1.tar+gzip",
    "zstd": "application/vnd.oci.image.layer.v1.tar+zstd",
}
_LEVELS = {"gzip": 9, "estargz": 9, "zstd": 22}

_ZSTD_FRAME_LEVEL = 1
# A fixed job size makes the output independent of the number of workers. From level 10 on the window
# outgrows it, and the library's own choice, a function of the level, is as deterministic.
_ZSTD_JOB_SIZE = 4 << 20
_ZSTD_JOB_LEVELS = 9

# More workers than this outrun sha256 of the tar, which is serial; each costs some 3 MB (zstd: 12 MB).
_MAX_THREADS = 8

_STORED = 8
"""Bytes at the start of isal's members that are not compressed."""
_SMALL_BUFFER = 2
"""Of isal's levels of memory: it makes shorter deflate blocks, 1 % smaller output for 5 % of the speed."""
_GZIP_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"  # deflate, no name, no time, OS unknown


class Compression(msgspec.Struct, frozen=True):
    """How a layer is compressed. `level` None is our default (gzip: isal's 2; zstd: frames of its level 1).

    Levels are 0 to 9 for gzip and estargz (see `archive.estargz`), 0 to 22 for zstd; raises `UsageError`.
    """

    type: Type = "gzip"
    level: int | None = None

    def __post_init__(self) -> None:
        if self.type not in _MEDIA_TYPES:
            raise UsageError(
                f"unsupported compression type {self.type}", hint="one of uncompressed, gzip, estargz, zstd"
            )
        if (
            self.level is not None
            and self.type != "uncompressed"
            and not 0 <= self.level <= _LEVELS[self.type]
        ):
            raise UsageError(
                f"invalid compression level {self.level} for {self.type}",
                hint=f"levels of {self.type} are 0 to {_LEVELS[self.type]}",
            )

    @property
    def key(self) -> str:
        """Type, library, its version and level: with equal keys, equal input gives equal bytes."""
        match self.type:
            case "uncompressed":
                return "uncompressed"
            case "zstd":
                version = zstd_module().zstd_version
                level = f"frames-{_ZSTD_FRAME_LEVEL}" if self.level is None else self.level
                return f"zstd:libzstd-{version}:{level}"
            case "gzip" | "estargz" if self.level is None:
                import isal

                return f"{self.type}:isal-{isal.ISAL_VERSION}-{_machine()}:2-{_STORED}"
            case "gzip" | "estargz":
                return f"{self.type}:{_deflater()[0]}:{self.level}"

    @property
    def media_type(self) -> str:
        """The OCI media type of a layer so compressed."""
        return _MEDIA_TYPES[self.type]


GZIP = Compression("gzip")
ZSTD = Compression("zstd")
UNCOMPRESSED = Compression("uncompressed")


class Compressor:
    """A writer that gives compressed bytes to `sink`, in order and never from two threads at once.

    `sink` may be called from other threads; it gets `bytes` that are its own. Errors of the sink or of the
    compression are raised by a later `write` or by `close`. As a context manager it closes, or aborts when
    left with an exception; no thread outlives either. `threads` defaults to the usable CPUs and does not
    alter the output. `on_block` sees the input on its way, in blocks of BLOCK_SIZE and a shorter last one.
    """

    def __init__(
        self,
        compression: Compression,
        sink: Callable[[bytes], object],
        *,
        threads: int | None = None,
        on_block: Callable[[bytes], object] | None = None,
    ) -> None:
        self._encoder: _Encoder
        self._on_block = on_block
        match compression.type:
            case "uncompressed":
                self._encoder = _Plain(sink)
            case "gzip":
                self._encoder = _Members(member_function(compression.level), sink, thread_count(threads))
            case "estargz":
                raise UsageError("estargz is made of a whole tar, not of a stream of bytes")
            case "zstd":
                if compression.level is None:
                    self._encoder = _Members(_zstd_frame, sink, thread_count(threads))
                else:
                    self._encoder = _Zstd(compression.level, sink, thread_count(threads))
        self._pending: list[bytes] = []
        self._pending_size = 0
        self._closed = False

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Take all of `data`, which may be changed afterwards unless it is `bytes`."""
        if self._closed:
            raise ValueError("write to a closed Compressor")
        size = data.nbytes if isinstance(data, memoryview) else len(data)
        if self._pending_size + size < BLOCK_SIZE:
            self._pending.append(bytes(data))
            self._pending_size += size
            return size
        with memoryview(data) as raw, raw.cast("B") as view:
            start = 0
            while self._pending_size + size - start >= BLOCK_SIZE:
                end = start + BLOCK_SIZE - self._pending_size
                if not self._pending and end - start == size and isinstance(data, bytes):
                    block = data
                else:
                    block = b"".join((*self._pending, view[start:end]))
                self._pending.clear()
                self._pending_size = 0
                start = end
                if self._on_block is not None:
                    self._on_block(block)
                self._encoder.block(block)
            if start < size:
                self._pending.append(bytes(view[start:]))
                self._pending_size = size - start
        return size

    def close(self) -> None:
        """Finish the stream and wait for the last byte to be delivered. Idempotent."""
        if self._closed:
            return
        self._closed = True
        rest = b"".join(self._pending)
        try:
            if self._on_block is not None:
                self._on_block(rest)
            self._encoder.end(rest)
        except BaseException:
            self._encoder.abort()
            raise
        finally:
            self._pending.clear()

    def abort(self) -> None:
        """Drop everything; the sink is not called any more once this returns. Idempotent."""
        self._closed = True
        self._pending.clear()
        self._encoder.abort()

    def __enter__(self) -> Compressor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()


class _Encoder(Protocol):
    """Gets blocks of exactly BLOCK_SIZE, then a last one that is shorter and may be empty."""

    def block(self, data: bytes) -> None: ...

    def end(self, rest: bytes) -> None: ...

    def abort(self) -> None: ...


class _Plain:
    def __init__(self, sink: Callable[[bytes], object]) -> None:
        self._sink = sink

    def block(self, data: bytes) -> None:
        self._sink(data)

    def end(self, rest: bytes) -> None:
        if rest:
            self._sink(rest)

    def abort(self) -> None:
        """Nothing is held."""


class _Members:
    """gzip members or zstd frames, one a block, made on several threads."""

    def __init__(
        self, member: Callable[[bytes], bytes], sink: Callable[[bytes], object], threads: int
    ) -> None:
        from anyarch.archive.parallel import Ordered

        self._member = member
        self._sink = sink
        self._workers = Ordered(member, sink, threads=threads if threads > 1 else 0, name="anyarch-pack")
        self._empty = True

    def block(self, data: bytes) -> None:
        self._empty = False
        self._workers.submit(data)

    def end(self, rest: bytes) -> None:
        if self._empty:
            # Small layers start no thread. An empty stream still needs one member.
            self._sink(self._member(rest))
        elif rest:
            self._workers.submit(rest)
        self._workers.close()

    def abort(self) -> None:
        self._workers.abort()


class _Zstd:
    """One zstd frame. The library's own workers compress; they end with the compressor object."""

    def __init__(self, level: int, sink: Callable[[bytes], object], threads: int) -> None:
        zstd = zstd_module()
        names = zstd.CompressionParameter
        options = {
            names.compression_level: level,
            # nb_workers 0 would be the one-thread coder, whose output differs from that of one worker.
            names.nb_workers: max(1, threads),
            names.checksum_flag: 1,
        }
        if level <= _ZSTD_JOB_LEVELS:
            options[names.job_size] = _ZSTD_JOB_SIZE
        self._compressor: Any = zstd.ZstdCompressor(options=options)
        self._sink = sink

    def block(self, data: bytes) -> None:
        out = self._compressor.compress(data)
        if out:
            self._sink(out)

    def end(self, rest: bytes) -> None:
        self.block(rest)
        self._sink(self._compressor.flush())
        self._compressor = None

    def abort(self) -> None:
        self._compressor = None


def _zstd_frame(data: bytes) -> bytes:
    zstd = zstd_module()
    names = zstd.CompressionParameter
    options = {names.compression_level: _ZSTD_FRAME_LEVEL, names.checksum_flag: 1}
    return bytes(zstd.compress(data, options=options))


def thread_count(threads: int | None) -> int:
    """The threads that compress: `threads`, by default one a CPU, at most 8."""
    if threads is None:
        from anyarch.archive.parallel import usable_cpus

        threads = usable_cpus()
    return min(threads, _MAX_THREADS)


@cache
def _machine() -> str:
    return os.uname().machine


def _deflater() -> tuple[str, Any]:
    """Name with version, and module, of the library for a gzip level that was asked for."""
    try:
        from zlib_ng import zlib_ng
    except ImportError:
        import zlib

        return f"zlib-{zlib.ZLIB_RUNTIME_VERSION}", zlib
    return f"zlib-ng-{zlib_ng.ZLIBNG_VERSION}", zlib_ng


def member_function(level: int | None) -> Callable[[bytes], bytes]:
    """What makes one gzip member of a block."""
    if level is None:
        from isal import isal_zlib

        def isal_member(data: bytes) -> bytes:
            # isal puts a stream's first bytes into its table of matches by an address in memory, so that one
            # run in thousands has other matches. So they are stored, and history to what it is given.
            first = bytes(data[:_STORED])
            size = len(first)
            stored = b"".join(
                (b"\0", size.to_bytes(2, "little"), (0xFFFF - size).to_bytes(2, "little"), first)
            )
            deflate = isal_zlib.compressobj(2, isal_zlib.DEFLATED, -15, _SMALL_BUFFER, zdict=first)
            body = deflate.compress(memoryview(data)[size:])
            return _gzip_member(stored, body, deflate.flush(), checksum=isal_zlib.crc32(data), size=len(data))

        return isal_member

    zlib = _deflater()[1]

    def zlib_member(data: bytes) -> bytes:
        return _gzip_member(zlib.compress(data, level, -15), checksum=zlib.crc32(data), size=len(data))

    return zlib_member


def _gzip_member(*deflated: bytes, checksum: int, size: int) -> bytes:
    """RFC 1952, section 2.3."""
    return b"".join((_GZIP_HEADER, *deflated, checksum.to_bytes(4, "little"), size.to_bytes(4, "little")))
