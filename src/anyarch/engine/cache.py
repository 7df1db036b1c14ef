"""The solver's cache store, on the records of the local store."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from anyarch.engine.places import place_of
from anyarch.solver.vertex import MISSING
from anyarch.spec.text import in_utf8
from anyarch.worker.result import SnapshotResult

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anyarch.cache.importer import ImportedCache
    from anyarch.solver.vertex import Vertex
    from anyarch.store.cache import CacheRecords
    from anyarch.worker.result import Result

__all__ = ["StoredCache"]

LEAST_SECONDS = 0.01
"""Steps that take less are not worth a record of their time."""


class StoredCache:
    """Implements `solver.vertex.CacheStore`. A result is a list of layer chains, one an output. `imported`
    are caches from elsewhere, asked for what the store does not have."""

    def __init__(self, records: CacheRecords) -> None:
        self._records = records
        self.imported: list[ImportedCache] = []

    def canonical(self, key: str) -> str | None:
        known = self._records.canonical(key)
        is_linked = known is not None and known != key
        if self.imported and (known is None or known == key or self.load(known) is None):
            for cache in self.imported:
                elsewhere = cache.canonical(key)
                if elsewhere is not None and (not is_linked or self.load(elsewhere) is not None):
                    return elsewhere
        return known

    def link(self, key: str, canonical: str) -> None:
        self._records.link(key, canonical)

    def has(self, canonical: str) -> bool:
        return self._records.has(canonical) or self._load_imported(canonical) is not None

    def load(self, canonical: str) -> Sequence[Result] | None:
        outputs: list[Result] = []
        while (saved := self._records.load(canonical, len(outputs))) is not None:
            outputs.append(saved.snapshot)
        return outputs or self._load_imported(canonical)

    def _load_imported(self, canonical: str) -> Sequence[Result] | None:
        for cache in self.imported:
            chains = cache.load(canonical)
            if chains is not None:
                whole = [chain for chain in chains if chain is not None]
                if cache.is_lasting and len(whole) == len(chains):
                    self._records.save(canonical, whole, description="from a build cache")
                return [chain if chain is not None else MISSING for chain in chains]
        return None

    def save(self, canonical: str, outputs: Sequence[Result], vertex: Vertex) -> None:
        chains = [output if isinstance(output, SnapshotResult) else None for output in outputs]
        self._records.save(canonical, chains, description=in_utf8(vertex.name))
        traffic = getattr(vertex.operation, "traffic", None)
        if traffic is not None:
            from anyarch.worker.ops.exec import TRAFFIC

            self._records.set_value(TRAFFIC, canonical, traffic.encode())
        if vertex.seconds >= LEAST_SECONDS:
            self._records.set_value("duration", duration_key(vertex), b"%.3f" % vertex.seconds)

    def last_seconds(self, vertex: Vertex) -> float | None:
        """How long the step took when it last ran, in whatever build; None when that is not known."""
        raw = self._records.get_value("duration", duration_key(vertex))
        return float(raw) if raw is not None else None


def duration_key(vertex: Vertex) -> str:
    """The same for a step of the same stage, text and platform, although what lies below it has changed."""
    place = place_of(vertex.name)
    parts = (vertex.platform or "", place.stage, place.text)
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogateescape")).hexdigest()
