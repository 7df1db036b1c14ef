"""The store: one directory, opened by any number of processes."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from anyarch.store.cache import CacheRecords
    from anyarch.store.content import ContentStore


def default_root() -> Path:
    """`$ANYARCH_ROOT`, else `$XDG_DATA_HOME/anyarch`, else `~/.local/share/anyarch`."""


class Store:
    root: Path
    content: ContentStore
    cache: CacheRecords

    @classmethod
    def open(cls, root: Path) -> Store:
        """Create or open; clears what dead processes left. The database is opened when first asked something."""

    def work_dir(self) -> Path:
        """A new empty directory under work/, owned by this process: cleared by the next open should we die."""

    def close(self) -> None: ...

    def __enter__(self) -> Store: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None: ...
