"""Content store: complete blobs under their digest (`blobs/sha256/<hex>`), as in an OCI layout."""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from anyarch.spec.digest import Digest


class ContentStore:
    def path(self, digest: str) -> Path:
        """Where the blob lies (or would lie)."""

    def has(self, digest: str) -> bool: ...

    def size(self, digest: str) -> int:
        """Bytes; BlobNotFound."""

    def open(self, digest: str) -> BinaryIO:
        """BlobNotFound."""

    def read(self, digest: str) -> bytes:
        """A small blob, verified; BlobNotFound, StoreError when corrupt."""

    def put(self, raw: bytes) -> Digest: ...

    def writer(self, *, expected: str | None = None, size: int | None = None) -> BlobWriter: ...

    def remove(self, digest: str) -> None: ...


class BlobWriter:
    """Context manager; leaving without commit() discards."""

    offset: int  # bytes written so far

    def write(self, data: bytes | bytearray | memoryview) -> int: ...

    def commit(self) -> Digest:
        """DigestMismatch when `expected` or `size` differ; NoSpace."""

    def __enter__(self) -> BlobWriter: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None: ...
