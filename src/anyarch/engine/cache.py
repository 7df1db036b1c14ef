"""The solver's cache store, on the records of the local store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anyarch.worker.result import SnapshotResult

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anyarch.solver.vertex import Vertex
    from anyarch.store.cache import CacheRecords
    from anyarch.worker.result import Result

__all__ = ["StoredCache"]


class StoredCache:
    """Implements `solver.vertex.CacheStore`. A result is a list of layer chains, one an output."""

    def __init__(self, records: CacheRecords) -> None:
        self._records = records

    def canonical(self, key: str) -> str | None:
        return self._records.canonical(key)

    def link(self, key: str, canonical: str) -> None:
        self._records.link(key, canonical)

    def load(self, canonical: str) -> Sequence[Result] | None:
        outputs: list[Result] = []
        while (saved := self._records.load(canonical, len(outputs))) is not None:
            outputs.append(SnapshotResult(saved.layers) if saved.layers is not None else None)
        return outputs or None

    def save(self, canonical: str, outputs: Sequence[Result], vertex: Vertex) -> None:
        chains = [output if isinstance(output, SnapshotResult) else None for output in outputs]
        self._records.save(canonical, chains, description=vertex.name)
