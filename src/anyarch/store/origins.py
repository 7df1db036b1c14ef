"""Which repositories are known to have which content: what a registry served, or said that it has.

The store keeps every document and blob once, wherever it came from. That a name may lead to one of them
is another matter: who names a digest in a repository gets it from the store only when that repository was
seen to have it. containerd keeps the same as labels of its content
(`containerd.io/distribution.source.<host>`).
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable

    from anyarch.store.metadata import Metadata

__all__ = ["Origins"]

_SELECTED = "(SELECT value FROM json_each(?))"


class Origins:
    """Thread-safe; raises `StoreError` only. Repositories are named in full, `registry/path`."""

    def __init__(self, meta: Metadata) -> None:
        self._meta = meta

    def unknown(self, repository: str, digests: Iterable[str]) -> list[str]:
        """Those of `digests` that `repository` was not seen to have, each once, in their order."""
        asked = list(dict.fromkeys(map(str, digests)))
        if not asked:
            return []
        rows = self._meta.query(
            f"SELECT digest FROM origins WHERE repository = ? AND digest IN {_SELECTED}",
            (repository, msgspec.json.encode(asked).decode()),
        )
        known = {row[0] for row in rows}
        return [digest for digest in asked if digest not in known]

    def add(self, repository: str, digests: Iterable[str]) -> None:
        """`repository` has them: it served them, or took them from us."""
        new = self.unknown(repository, digests)
        if new:
            now = time.time()
            with self._meta.transaction() as database:
                database.executemany(
                    "INSERT OR IGNORE INTO origins VALUES (?, ?, ?)",
                    [(digest, repository, now) for digest in new],
                )
