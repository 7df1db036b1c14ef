"""What the solver keeps between builds: cache keys, results, small memos."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence


class HasLayers(Protocol):
    """A snapshot, as far as the store is concerned."""

    @property
    def layers(self) -> tuple[str, ...]: ...


class SavedResult(msgspec.Struct, frozen=True):
    """One output of a vertex: `layers` are layer ids, lowest first (`Snapshot(saved.layers)`); None: no such output."""

    layers: tuple[str, ...] | None
    description: str
    created_at: float


class CacheRecords:
    def canonical(self, key: str) -> str | None:
        """The canonical key that `key` was linked to."""

    def link(self, key: str, canonical: str) -> None: ...

    def load(self, canonical: str, output: int) -> SavedResult | None:
        """None when unknown or when one of its layers is gone."""

    def save(
        self, canonical: str, outputs: Sequence[HasLayers | None], *, description: str = "", created_at: float | None = None
    ) -> None: ...

    def forget(self, canonical: str) -> None: ...

    def get_value(self, namespace: str, key: str) -> bytes | None: ...

    def set_value(self, namespace: str, key: str, value: bytes) -> None: ...

    def delete_value(self, namespace: str, key: str) -> None: ...
