"""One streaming pass: tar, sha256 (diff ID), compress, sha256 and size of the blob, sink.

The tar is made in the calling thread; hashing and compression run beside it (see `parallel`). Memory is
flat: some 20 blocks of 1 MiB at most.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import msgspec

from anyarch.archive.compression import BLOCK_SIZE, Compressor
from anyarch.archive.parallel import Ordered, usable_cpus
from anyarch.archive.tar import TarWriter
from anyarch.spec.digest import Digest

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from anyarch.archive.compression import Compression
    from anyarch.archive.entry import Entry
    from anyarch.archive.tar import Readable

__all__ = ["LayerPipe", "LayerSummary", "LayerWriter"]


class LayerSummary(msgspec.Struct, frozen=True):
    """`diff_id` and `tar_size` are those of the uncompressed tar, `digest` and `size` those of the blob."""

    diff_id: Digest
    tar_size: int
    digest: Digest
    size: int


class LayerPipe:
    """Takes the bytes of a tar, gives the compressed blob to `sink` and sums up both.

    `sink` gets `bytes` in order, perhaps from other threads, but from one at a time. Errors of the sink are
    raised by a later `write` or by `close`. Leaving the context without `close` aborts; no thread outlives
    either.
    """

    def __init__(
        self, compression: Compression, sink: Callable[[bytes], object], *, threads: int | None = None
    ) -> None:
        threads = usable_cpus() if threads is None else threads
        self._sink = sink
        self._tar_hash = hashlib.sha256()
        self._tar_size = 0
        self._blob_hash = self._tar_hash if compression.type == "uncompressed" else hashlib.sha256()
        self._size = 0
        self._hasher: Ordered[bytes, None] = Ordered(
            self._tar_hash.update,
            lambda _: None,
            threads=1 if threads > 1 else 0,
            depth=4,
            name="anyarch-sha256",
        )
        self._compressor = Compressor(compression, self._deliver, threads=threads, on_block=self._hash)
        self._summary: LayerSummary | None = None

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Take all of `data`."""
        return self._compressor.write(data)

    def close(self) -> LayerSummary:
        """Finish the blob; all of it has been delivered on return. Idempotent."""
        if self._summary is None:
            self._compressor.close()
            self._hasher.close()
            self._summary = LayerSummary(
                Digest.from_hex(self._tar_hash.hexdigest()),
                self._tar_size,
                Digest.from_hex(self._blob_hash.hexdigest()),
                self._size,
            )
        return self._summary

    def abort(self) -> None:
        """Drop everything; the sink is not called any more once this returns. Idempotent, also after
        `close`.
        """
        self._compressor.abort()
        self._hasher.abort()

    def __enter__(self) -> LayerPipe:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._summary is None:
            self.abort()

    def _hash(self, block: bytes) -> None:
        self._tar_size += len(block)
        if self._tar_size < BLOCK_SIZE:
            self._tar_hash.update(block)  # the only one: a thread would cost more than it saves
        else:
            self._hasher.submit(block)

    def _deliver(self, data: bytes) -> None:
        if self._blob_hash is not self._tar_hash:
            self._blob_hash.update(data)
        self._size += len(data)
        self._sink(data)


class LayerWriter:
    """Entries in, compressed blob out: a `TarWriter` before a `LayerPipe`, with the promises of both.

    `tee` also receives the uncompressed tar.
    """

    def __init__(
        self,
        compression: Compression,
        sink: Callable[[bytes], object],
        *,
        tee: Callable[[bytes], object] | None = None,
        hash_contents: bool = False,
        threads: int | None = None,
    ) -> None:
        self._pipe = LayerPipe(compression, sink, threads=threads)
        self._tee = tee
        self._tar = TarWriter(
            self._pipe.write if tee is None else self._write_both, hash_contents=hash_contents
        )

    def add(self, entry: Entry, content: Readable | bytes | None = None) -> Entry:
        """As `TarWriter.add`."""
        return self._tar.add(entry, content)

    def add_fd(self, entry: Entry, fd: int) -> Entry:
        """As `TarWriter.add_fd`."""
        return self._tar.add_fd(entry, fd)

    def close(self) -> LayerSummary:
        """As `LayerPipe.close`."""
        self._tar.close()
        return self._pipe.close()

    def abort(self) -> None:
        """As `LayerPipe.abort`."""
        self._pipe.abort()

    def __enter__(self) -> LayerWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._pipe.__exit__(kind, error, traceback)

    def _write_both(self, data: bytes) -> None:
        if self._tee is not None:
            self._tee(data)
        self._pipe.write(data)
