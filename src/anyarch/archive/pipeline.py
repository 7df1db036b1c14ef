"""One streaming pass: tar, sha256 (diff ID), compress, sha256 and size of the blob, sink."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from anyarch.spec.digest import Digest

if TYPE_CHECKING:
    from collections.abc import Callable

    from anyarch.archive.compression import Compression
    from anyarch.archive.entry import Entry
    from anyarch.archive.tar import Readable

__all__ = ["LayerPipe", "LayerSummary", "LayerWriter"]


class LayerSummary(msgspec.Struct, frozen=True):
    """`diff_id`, `tar_size` of the uncompressed tar; `digest`, `size` of the blob."""

    diff_id: Digest
    tar_size: int
    digest: Digest
    size: int


class LayerPipe:
    """Takes the bytes of a tar, gives the compressed blob to `sink`. Context manager (abort on exception)."""

    def __init__(self, compression: Compression, sink: Callable[[bytes], object]) -> None: ...

    def write(self, data: bytes | bytearray | memoryview) -> int: ...

    def close(self) -> LayerSummary: ...

    def abort(self) -> None: ...


class LayerWriter:
    """Entries in, compressed blob out. `tee` also receives the uncompressed tar. Context manager."""

    def __init__(
        self,
        compression: Compression,
        sink: Callable[[bytes], object],
        *,
        tee: Callable[[bytes], object] | None = None,
        hash_contents: bool = False,
    ) -> None: ...

    def add(self, entry: Entry, content: Readable | bytes | None = None) -> Entry: ...

    def add_fd(self, entry: Entry, fd: int) -> Entry: ...

    def close(self) -> LayerSummary: ...

    def abort(self) -> None: ...
