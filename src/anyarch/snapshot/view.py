"""The merged tree of a chain of layers, without a mount."""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO, Protocol

import msgspec

from anyarch.archive.entry import Entry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from anyarch.snapshot.layers import Layer, LayerStore
    from anyarch.spec.digest import Digest


class Node(msgspec.Struct, frozen=True):
    """A visible path of a tree. `entry.path` is the real path (symlinks of the parents resolved). HARDLINK entries stay
    as they are: `tree.target(node)` is the FILE they stand for. `position` numbers the layer in its chain (0 = lowest)."""

    entry: Entry
    position: int = 0


class TreeView(Protocol):
    """What file operations read from: a chain of layers (`View`) or a host directory (`HostTree`)."""

    def lookup(self, path: str) -> Node | None:
        """Symlinks of the parents are resolved inside the root, the last component is not."""

    def resolve(self, path: str) -> str:
        """Clean path with all symlinks resolved inside the root; components that do not exist are kept. Loop: PathNotFound."""

    def listdir(self, path: str) -> list[str]:
        """Sorted names in a directory (links resolved); PathNotFound."""

    def walk(self, path: str) -> Iterator[Node]:
        """The path itself (no link followed) and all below, parents first, sorted; PathNotFound."""

    def target(self, node: Node) -> Node:
        """The FILE that a HARDLINK stands for; any other node itself."""

    def open(self, node: Node) -> BinaryIO:
        """Content of a FILE or HARDLINK."""

    def content_digest(
        self, path: str, *, follow: bool = False, select: Callable[[str, bool], str] | None = None
    ) -> Digest:
        """Digest of a subtree: names below it, kinds, modes, ids, link targets, devices, xattrs, content; no mtime and not the
        name of `path` itself. `select(path_relative_to_it, is_dir)` answers "yes", "no" or "descend". PathNotFound."""


class View:
    """The merged tree of `layers`, lowest first. Indexes are loaded only as far down as a question needs."""

    def __init__(self, store: LayerStore, layers: Sequence[Layer]) -> None: ...

    def layer(self, node: Node) -> Layer: ...

    # and all of TreeView
