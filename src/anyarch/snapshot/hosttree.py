"""A tree view of a host directory, read in place."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from anyarch.store.store import Store


class HostTree:
    """A build context directory as a TreeView; scanned once, at construction. ids are 0, mtimes kept, sockets skipped.

    `keep(path, is_dir)` answers "yes", "no" or "descend" (a directory that is there only if something below it is kept).
    Digests of unchanged files come from the stat cache of `store`. Unreadable: ContextError naming the file.
    """

    def __init__(self, root: str, *, keep: Callable[[str, bool], str] | None = None, store: Store | None = None) -> None: ...

    # and all of TreeView
