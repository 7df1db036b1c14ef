"""Streaming decompression of whatever layers, contexts and ADDed archives come in."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, Protocol

from anyarch.errors import MalformedArchive

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Buffer

    class Source(Protocol):
        """Anything that can be read; fewer bytes than asked may come, none means the end."""

        def read(self, size: int, /) -> bytes: ...


__all__ = ["MAGIC_SIZE", "detect", "open_decompressed", "zstd_module"]

MAGIC_SIZE = 6
"""Bytes from the start that `detect` wants to see."""

_READ_SIZE = 256 << 10
_LEAST_FEED = 4 << 10
_XZ_MEMORY_LIMIT = 512 << 20  # `xz -9` needs 65 MB to unpack; the format would allow 4 GiB


def detect(head: bytes) -> str:
    """`gzip`, `zstd`, `bzip2`, `xz` or `uncompressed`, by the first MAGIC_SIZE bytes."""
    if head[:3] == b"\x1f\x8b\x08":
        return "gzip"
    if head[:4] == b"\x28\xb5\x2f\xfd" or (head[1:4] == b"\x2a\x4d\x18" and 0x50 <= head[0] <= 0x5F):
        return "zstd"  # the second form is a skippable frame, as zstd:chunked and pzstd begin
    if head[:3] == b"BZh":
        return "bzip2"
    if head[:6] == b"\xfd7zXZ\x00":
        return "xz"
    return "uncompressed"


def open_decompressed(source: Source) -> io.RawIOBase:
    """A reader of the plain bytes of `source`, from where that stands; the caller keeps and closes `source`.

    Memory is flat whatever comes in. Several members or frames in a row are read as one stream; zero bytes
    after the last are ignored. Damaged or truncated data raises `MalformedArchive`; errors of `source`
    pass. `read(n)` gives up to n bytes and `b""` only at the end.
    """
    head = b""
    while len(head) < MAGIC_SIZE:
        more = source.read(MAGIC_SIZE - len(head))
        if not more:
            break
        head += more
    kind = detect(head)
    if kind == "uncompressed":
        return _Plain(source, head)
    return _Decompressed(kind, source, head)


class _Plain(io.RawIOBase):
    """`head`, then the rest of `source`."""

    def __init__(self, source: Source, head: bytes) -> None:
        self._source = source
        self._head = head

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:
            return self.readall()
        if self._head:
            data, self._head = self._head[:size], self._head[size:]
            return data
        return self._source.read(size)

    def readinto(self, buffer: Buffer, /) -> int:
        with memoryview(buffer) as raw, raw.cast("B") as view:
            data = self.read(len(view))
            view[: len(data)] = data
            return len(data)


class _Decompressed(io.RawIOBase):
    def __init__(self, kind: str, source: Source, head: bytes) -> None:
        self._kind = kind
        self._new, self._errors = _coder(kind)
        self._coder = self._new()
        self._source = source
        self._input = head
        self._at = 0
        self._fresh = True  # nothing was fed to the present coder
        self._feed = _READ_SIZE
        self._ended = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Buffer, /) -> int:
        with memoryview(buffer) as raw, raw.cast("B") as view:
            data = self.read(len(view))
            view[: len(data)] = data
            return len(data)

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:
            return self.readall()
        if size == 0:
            return b""
        while not self._ended:
            if self._coder.eof and not self._next_stream():
                break
            data = self._decompress(size)
            if data:
                return data
        return b""

    def _decompress(self, size: int) -> bytes:
        """One call of the coder: up to `size` bytes, perhaps none."""
        piece = b""
        if self._fresh or self._coder.needs_input:
            piece = self._take()
            if not piece:
                raise MalformedArchive(
                    f"{self._kind} data ends too early",
                    hint="the file or download is truncated; fetch it again",
                )
            self._fresh = False
        try:
            data: bytes = self._coder.decompress(piece, size)
        except self._errors as error:
            raise MalformedArchive(f"{self._kind} data is damaged: {error}") from error
        if self._coder.eof:
            unused = len(self._coder.unused_data)
            if unused:
                # The coder copied what it did not need. With streams of a few hundred bytes (eStargz, hostile
                # input) that would cost a whole feed each time: feed less until streams get longer.
                self._at -= unused
                self._feed = max(_LEAST_FEED, self._feed // 2)
        elif self._feed < _READ_SIZE:
            self._feed *= 2
        return data

    def _take(self) -> bytes:
        """The next input bytes, none at the end."""
        if self._at >= len(self._input):
            self._input = self._source.read(_READ_SIZE)
            self._at = 0
        start = self._at
        self._at = min(start + self._feed, len(self._input))
        if start == 0 and self._at == len(self._input):
            return self._input
        return self._input[start : self._at]

    def _next_stream(self) -> bool:
        """After the end of a stream: is there another? Zero padding (.xz file format 2.2, tape blocks) is
        skipped.
        """
        while True:
            rest = self._input[self._at :] if self._at else self._input
            stripped = rest.lstrip(b"\0")
            if stripped:
                break
            self._input, self._at = self._source.read(_READ_SIZE), 0
            if not self._input:
                self._ended = True
                return False
        self._at = len(self._input) - len(stripped)
        self._coder = self._new()
        self._fresh = True
        return True


def zstd_module() -> Any:
    """The zstd module: `compression.zstd` from Python 3.14 on, else its backport."""
    import sys

    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
    return zstd


def _coder(kind: str) -> tuple[Callable[[], Any], tuple[type[Exception], ...]]:
    """What makes a decompressor for one stream, and the errors it raises for bad data.

    All have the interface of `bz2.BZ2Decompressor`.
    """
    match kind:
        case "gzip":
            from isal import igzip_lib

            damage: Any = igzip_lib.IsalError  # the stub of isal takes it for an instance
            return (lambda: igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)), (damage, EOFError)
        case "zstd":
            zstd = zstd_module()
            return zstd.ZstdDecompressor, (zstd.ZstdError, EOFError)
        case "bzip2":
            import bz2

            return bz2.BZ2Decompressor, (OSError, ValueError, EOFError)
        case _:
            import lzma

            return (
                lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY_LIMIT),
                (lzma.LZMAError, EOFError),
            )
