"""What a sequence of tar entries amounts to once applied: the sorted index of a layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from anyarch.archive.entry import Entry

__all__ = ["fold", "sort_key"]


def sort_key(path: str) -> str:
    """Key that sorts paths by components, parents before children."""
    return path.replace("/", "\0")


def fold(entries: Iterable[Entry]) -> list[Entry]:
    """Sorted entries, one a path: later ones win, opaque markers merged into directories, hard links point to the
    first path of their file, entries below a symlink of the same layer are moved to where it points."""
