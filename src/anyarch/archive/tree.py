"""A directory as entries, and those as a tar."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Protocol

    from anyarch.archive.entry import Entry

    class EntryWriter(Protocol):
        def add(self, entry: Entry, content: bytes | None = None) -> Entry: ...

        def add_fd(self, entry: Entry, fd: int) -> Entry: ...


__all__ = ["scan_tree", "tar_tree"]


def scan_tree(root: str | int, *, overlay: Literal["trusted", "user"] | None = None) -> list[Entry]:
    """Entries below `root` (path or directory fd), the root itself ("") first, sorted by components.

    With `overlay` an upper directory is read: its whiteouts and opaque marks become WHITEOUT entries and `opaque`.
    """


def tar_tree(entries: Iterable[Entry], root: str | int, writer: EntryWriter) -> list[Entry]:
    """Write `entries`, contents from below `root`; answers them as the writer did."""
