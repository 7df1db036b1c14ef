"""Tar codec of layers: `TarWriter` packs entries, `read_tar` streams them back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anyarch.archive.tar_reader import ContentReader, read_tar

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from anyarch.archive.entry import Entry

    class Readable(Protocol):
        def read(self, size: int = -1, /) -> bytes: ...


__all__ = ["ContentReader", "TarWriter", "read_tar"]


class TarWriter:
    """Writes entries as a tar whose bytes depend on the entries alone.

    `sink` receives `bytes` objects that are never changed afterwards. `whiteouts=False` writes names that start
    with `.wh.` as they are (plain tar outputs); with True such names of ordinary entries are refused.
    """

    def __init__(
        self, sink: Callable[[bytes], object], *, hash_contents: bool = False, whiteouts: bool = True
    ) -> None: ...

    @property
    def offset(self) -> int:
        """Bytes of tar so far."""

    def add(self, entry: Entry, content: Readable | bytes | None = None) -> Entry:
        """Append `entry`; answers it with `offset` (and `digest`) filled. MalformedArchive when content != size."""

    def add_fd(self, entry: Entry, fd: int) -> Entry:
        """As `add`, content from a file descriptor (not closed)."""

    def close(self) -> None:
        """Write the end of the archive and flush to the sink. Idempotent."""
