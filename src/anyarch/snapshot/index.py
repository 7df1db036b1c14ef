"""The index of one layer: all its entries, by path."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anyarch.archive.entry import Entry


class LayerIndex:
    def get(self, path: str) -> Entry | None: ...

    def children(self, path: str) -> list[str]:
        """Sorted names this layer has directly under `path` (whiteouts included)."""

    def __iter__(self) -> Iterator[Entry]:
        """Sorted by path components."""

    def __len__(self) -> int: ...
