"""Compression of layers: deterministic, parallel; and streaming decompression of whatever is found."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import BinaryIO

__all__ = ["GZIP", "UNCOMPRESSED", "ZSTD", "Compression", "Compressor", "detect", "open_decompressed"]

Type = Literal["uncompressed", "gzip", "zstd"]


class Compression(msgspec.Struct, frozen=True):
    """How a layer is compressed. `level` None is our default."""

    type: Type = "gzip"
    level: int | None = None

    @property
    def key(self) -> str:
        """Names type, library, version and level: equal keys and equal input give equal bytes."""

    @property
    def media_type(self) -> str:
        """The OCI layer media type."""


GZIP = Compression("gzip")
ZSTD = Compression("zstd")
UNCOMPRESSED = Compression("uncompressed")


class Compressor:
    """Context manager; leaving with an exception aborts. Errors of `sink` come up in `write` or `close`."""

    def __init__(
        self, compression: Compression, sink: Callable[[bytes], object], *, threads: int | None = None
    ) -> None: ...

    def write(self, data: bytes | bytearray | memoryview) -> int: ...

    def close(self) -> None: ...

    def abort(self) -> None: ...


def detect(head: bytes) -> str:
    """`gzip`, `zstd`, `bzip2`, `xz` or `uncompressed`, from the first 6 or more bytes."""


def open_decompressed(fileobj: BinaryIO) -> BinaryIO:
    """A reader (read, readinto, close) of the plain bytes; MalformedArchive when damaged. Closes `fileobj`: no."""
