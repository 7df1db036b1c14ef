"""Streaming reader of ustar, PAX and GNU tar."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Protocol

    from anyarch.archive.entry import Entry

    class Source(Protocol):
        def read(self, size: int = -1, /) -> bytes: ...


__all__ = ["ContentReader", "read_tar"]


class ContentReader:
    """Content of the entry just yielded; empty for all but FILE; valid until the iterator is advanced."""

    def read(self, size: int = -1, /) -> bytes: ...

    def readinto(self, buffer: bytearray | memoryview, /) -> int: ...


def read_tar(source: Source, *, whiteouts: bool = True) -> Iterator[tuple[Entry, ContentReader]]:
    """Entries in the order of the archive, paths cleaned, `offset` filled.

    `.wh.NAME` gives kind WHITEOUT; `.wh..wh..opq` in D gives Entry(path=D, kind=WHITEOUT, opaque=True)
    (`fold.fold` merges that into the directory). `whiteouts=False` leaves such names as ordinary files.
    Raises MalformedArchive.
    """
