"""What trees of files are to those who read them, wherever the files are."""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO, Protocol

import msgspec

from anyarch.archive.entry import Entry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Literal

    from anyarch.spec.digest import Digest

    Keep = Callable[[str, bool], Literal["yes", "no", "descend"]]

__all__ = ["Node", "TreeView"]


class Node(msgspec.Struct, frozen=True, gc=False):
    """A visible path of a tree. `entry.path` is the real path: symlinks of its parents are resolved.
    HARDLINK entries stay as they are: `tree.target(node)` is the FILE they stand for. `position` numbers
    the layer, 0 the lowest."""

    entry: Entry
    position: int = 0


class TreeView(Protocol):
    """What file operations read from: a chain of layers (`View`) or a host directory (`HostTree`).

    Paths may be absolute or relative, which is the same; links never lead out of the root. Thread-safe.
    Raises `PathNotFound` and what the layers' `index` and `open_file` raise (`BlobNotFound` when a layer
    is only remote).
    """

    def lookup(self, path: str) -> Node | None:
        """Links of the parents are resolved, one that `path` itself names is not."""

    def resolve(self, path: str) -> str:
        """The clean path with all links resolved; components that do not exist stay. `PathNotFound` for a
        loop."""

    def listdir(self, path: str) -> list[str]:
        """Sorted names in a directory (all links resolved); `PathNotFound` when it is none."""

    def walk(self, path: str, *, keep: Keep | None = None) -> Iterator[Node]:
        """`path` itself (not followed) and all below it, parents first, sorted by components; `PathNotFound`.

        `keep(path below it, is_directory)` leaves out: "no" a whole subtree, "descend" a directory unless
        something below it is kept.
        """

    def target(self, node: Node) -> Node:
        """The FILE that a HARDLINK stands for; any other node itself."""

    def open(self, node: Node) -> BinaryIO:
        """Content of a FILE or HARDLINK; the caller closes it. `PathNotFound` for other kinds."""

    def content(self, node: Node) -> BinaryIO | bytes:
        """As `open`, but the bytes themselves when they are at hand and wanted only this once."""

    def content_digest(self, path: str, *, follow: bool = False, keep: Keep | None = None) -> Digest:
        """Digest of what `walk(path, keep=keep)` gives: names below `path`, kinds, modes, owners, link
        targets, device numbers, attributes, contents; no times and not the name of `path` itself. `follow`
        resolves `path`."""
