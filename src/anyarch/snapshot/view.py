"""Trees of files that nothing has to be mounted for: the merged view of a chain of layers.

A path is looked up from the uppermost layer down, one dict look-up a layer (`snapshot.stack` passes over most
of a long chain), and only as far down as the question needs: what the upper layers answer does not load the
index of a base image (which may not even be local).
"""

from __future__ import annotations

import threading
from functools import partial
from typing import TYPE_CHECKING, BinaryIO

from anyarch.archive.entry import Entry, Kind
from anyarch.errors import PathNotFound
from anyarch.snapshot.stack import Stack
from anyarch.snapshot.tree import Node

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from anyarch.snapshot.index import LayerIndex
    from anyarch.snapshot.layers import Layer, LayerStore
    from anyarch.snapshot.stack import Leaf
    from anyarch.snapshot.tree import Keep
    from anyarch.spec.digest import Digest


__all__ = ["MergedTree", "View"]

_MAX_LINKS = 255  # as containerd and BuildKit; Linux itself stops at 40


class MergedTree:
    """The look-up through indexes that `View` and `HostTree` share; they say where indexes and contents
    come from."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._lock = threading.RLock()
        self._floors: dict[str, int] = {}  # the lowest layer that shows in a directory, as far as known
        self._resolved: dict[str, str] = {"": ""}

    # -- what the two differ in

    def _open(self, position: int, entry: Entry) -> BinaryIO:
        raise AssertionError("a subclass says which")

    def _digest_files(self, position: int, entries: list[Entry]) -> dict[str, bytes]:
        """sha256 (32 bytes) by path of FILE entries that have none."""
        raise AssertionError("a subclass says which")

    # -- TreeView

    def lookup(self, path: str) -> Node | None:
        with self._lock:
            return self._find(self._resolve(path, follow=False))

    def resolve(self, path: str) -> str:
        with self._lock:
            return self._resolve(path, follow=True)

    def listdir(self, path: str) -> list[str]:
        with self._lock:
            real = self._resolve(path, follow=True)
            self._directory(real, path)
            return [node.entry.path.rpartition("/")[2] for node in self._list(real)]

    def walk(self, path: str, *, keep: Keep | None = None) -> Iterator[Node]:
        node = self.lookup(path)
        if node is None:
            raise _not_found(path)
        return self._walk(node, keep)

    def target(self, node: Node) -> Node:
        entry = node.entry
        if entry.kind is not Kind.HARDLINK:
            return node
        with self._lock:
            found = self._stack.leaf(node.position).index.get(entry.linkname)
            # A layer made by others may link to a file of a lower layer.
            target = Node(found, node.position) if found is not None else self._find(entry.linkname)
        if target is None or target.entry.kind is not Kind.FILE:
            raise PathNotFound(f"{entry.path}: hard link to {entry.linkname}, which is no file of the image")
        return target

    def open(self, node: Node) -> BinaryIO:
        target = self.target(node)
        if target.entry.kind is not Kind.FILE:
            raise PathNotFound(f"{node.entry.path} is no regular file")
        return self._open(target.position, target.entry)

    def content(self, node: Node) -> BinaryIO | bytes:
        return self.open(node)

    def content_digest(self, path: str, *, follow: bool = False, keep: Keep | None = None) -> Digest:
        from anyarch.snapshot.contenthash import digest_nodes

        with self._lock:
            real = self._resolve(path, follow=follow)
            node = self._find(real)
        if node is None:
            raise _not_found(path)
        pairs: list[tuple[str, Node]] = []
        wanted: dict[int, list[Entry]] = {}
        for one in self._walk(node, keep):
            entry = one.entry
            target = one if entry.kind is not Kind.HARDLINK else self.target(one)
            pairs.append((entry.path, target))
            if target.entry.kind is Kind.FILE and not target.entry.digest:
                wanted.setdefault(target.position, []).append(target.entry)
        known = {position: self._digest_files(position, entries) for position, entries in wanted.items()}
        return digest_nodes(real, pairs, known)

    # -- the look-up; all paths are real and clean from here on

    def _layers(self, directory: str) -> Iterator[Leaf]:
        """The layers that have a part in `directory`, uppermost first, found as they are asked for."""
        above = _above(directory)
        for leaf in self._stack.search(directory, (*above, directory)):
            index = leaf.index
            end = _end(index, above)
            if end is _HIDDEN:
                return
            entry = index.get(directory)
            if entry is None:
                if not directory or directory in index.implicit:
                    yield leaf
            elif entry.kind is Kind.DIRECTORY:
                yield leaf
                if entry.opaque:
                    return
            else:
                return  # removed or replaced: what lies below is hidden
            if end is _OPAQUE:
                return

    def _find(self, path: str) -> Node | None:
        node = _among(path, self._visible(path))
        return node if node is not None or path else Node(Entry("", Kind.DIRECTORY, 0o755))

    def _visible(self, path: str) -> Iterator[Leaf]:
        """The layers that may say what `path` is, uppermost first, found as they are asked for: some that
        have nothing to do with it, but none that is hidden in one of the directories above it."""
        parent = path.rpartition("/")[0]
        floor = self._floors.get(parent, -1)
        if floor >= 0:
            for leaf in self._stack.search(path, ()):
                if leaf.position < floor:
                    return
                yield leaf
            return
        above = _above(path)
        for leaf in self._stack.search(path, above):
            end = _end(leaf.index, above)
            if end is _HIDDEN:
                self._floors[parent] = leaf.position + 1
                return
            yield leaf
            if end is _OPAQUE:
                self._floors[parent] = leaf.position
                return
        self._floors[parent] = 0

    def _resolve(self, path: str, *, follow: bool) -> str:
        parts = [part for part in path.split("/") if part and part != "."]
        if not parts:
            return ""
        if not follow and parts[-1] != "..":
            parent = self._resolve_memo("/".join(parts[:-1]), path)
            return f"{parent}/{parts[-1]}" if parent else parts[-1]
        return self._resolve_memo("/".join(parts), path)

    def _resolve_memo(self, clean: str, asked: str) -> str:
        real = self._resolved.get(clean)
        if real is None:
            real = self._resolved[clean] = self._follow(clean, asked)
        return real

    def _follow(self, clean: str, asked: str) -> str:
        todo = clean.split("/")[::-1]
        current = ""
        links = 0
        while todo:
            part = todo.pop()
            if not part or part == ".":
                continue
            if part == "..":
                current = current.rpartition("/")[0]
                continue
            candidate = f"{current}/{part}" if current else part
            node = self._find(candidate)
            if node is None or node.entry.kind is not Kind.SYMLINK:
                current = candidate
                continue
            links += 1
            if links > _MAX_LINKS:
                raise PathNotFound(f"{asked}: too many levels of symbolic links")
            if node.entry.linkname.startswith("/"):
                current = ""
            todo += node.entry.linkname.split("/")[::-1]
        return current

    def _directory(self, real: str, asked: str) -> Node:
        node = self._find(real)
        if node is None:
            raise _not_found(asked)
        if node.entry.kind is not Kind.DIRECTORY:
            raise PathNotFound(f"{asked} is not a directory")
        return node

    def _list(self, directory: str) -> list[Node]:
        """What is visible in a directory, sorted by name."""
        with self._lock:
            layers = list(self._layers(directory))
            prefix = f"{directory}/" if directory else ""
            if len(layers) == 1 and not layers[0].index.implicit:
                index = layers[0].index
                entries = [index.get(prefix + name) for name in index.children(directory)]
                return [
                    Node(entry, layers[0].position)
                    for entry in entries
                    if entry is not None and entry.kind is not Kind.WHITEOUT
                ]
            names = {name for leaf in layers for name in leaf.index.children(directory)}
            nodes = [_among(prefix + name, layers) for name in sorted(names)]
            return [node for node in nodes if node is not None]

    def _walk(self, top: Node, keep: Keep | None) -> Iterator[Node]:
        yield top
        if top.entry.kind is not Kind.DIRECTORY:
            return
        if keep is None:
            with self._lock:
                layers = list(self._layers(top.entry.path))
                plain = len(layers) == 1 and not layers[0].index.implicit
            if plain:  # the usual COPY --from: one layer has it all
                whiteout, own, position = Kind.WHITEOUT, top.entry.path, layers[0].position
                for entry in layers[0].index.below(own):
                    if entry.kind is not whiteout and entry.path != own:
                        yield Node(entry, position)
                return
        cut = len(top.entry.path) + 1 if top.entry.path else 0
        pending: list[Node] = []  # nested directories, each to be given when something below it is
        # Iterators instead of recursion: trees may be deeper than Python's stack.
        stack = [iter(self._list(top.entry.path))]
        while stack:
            node = next(stack[-1], None)
            if node is None:
                stack.pop()
                continue
            path = node.entry.path
            is_directory = node.entry.kind is Kind.DIRECTORY
            verdict = "yes" if keep is None else keep(path[cut:], is_directory)
            if verdict == "no" or (verdict == "descend" and not is_directory):
                continue
            while pending and not path.startswith(pending[-1].entry.path + "/"):
                pending.pop()
            if verdict == "descend":
                pending.append(node)
            else:
                yield from pending
                pending.clear()
                yield node
            if is_directory:
                stack.append(iter(self._list(path)))


class View(MergedTree):
    """The merged tree of `layers`, lowest first."""

    def __init__(self, store: LayerStore, layers: Sequence[Layer], *, below: View | None = None) -> None:
        """With `below` on top of the layers of that view, at the cost of the new ones."""
        stack = below._stack if below is not None else Stack()
        for layer in layers:
            stack = stack.on(layer, partial(store.index, layer))
        super().__init__(stack)
        self._store = store

    def layer(self, node: Node) -> Layer:
        """The layer that a node comes from."""
        return self._layer(node.position)

    def _layer(self, position: int) -> Layer:
        layer = self._stack.leaf(position).layer
        assert layer is not None
        return layer

    def _open(self, position: int, entry: Entry) -> BinaryIO:
        return self._store.open_file(self._layer(position), entry)

    def _digest_files(self, position: int, entries: list[Entry]) -> dict[str, bytes]:
        return self._store.file_digests(self._layer(position), entries)


_OPEN, _OPAQUE, _HIDDEN = range(3)


def _among(path: str, layers: Iterable[Leaf]) -> Node | None:
    """What `path` is in `layers`, uppermost first: all that have a part in its directory, or more."""
    implied = -1
    for leaf in layers:
        entry = leaf.index.get(path)
        if entry is None:
            if implied < 0 and path in leaf.index.implicit:
                implied = leaf.position
        elif entry.kind is Kind.DIRECTORY:
            return Node(entry, leaf.position)
        elif implied >= 0:
            break
        else:
            return None if entry.kind is Kind.WHITEOUT else Node(entry, leaf.position)
    return Node(Entry(path, Kind.DIRECTORY, 0o755), implied) if implied >= 0 else None


def _above(path: str) -> tuple[str, ...]:
    """The directories that `path` is in, the root among them."""
    found = [""] if path else []
    at = path.find("/")
    while at >= 0:
        found.append(path[:at])
        at = path.find("/", at + 1)
    return tuple(found)


def _end(index: LayerIndex, above: Sequence[str]) -> int:
    """Whether a layer hides what is further down of something in the directories `above` it: with what itself
    has there shown (_OPAQUE), or nothing at all (_HIDDEN)."""
    found = _OPEN
    for directory in above:
        entry = index.get(directory)
        if entry is not None:
            if entry.kind is not Kind.DIRECTORY:
                return _HIDDEN
            if entry.opaque:
                found = _OPAQUE
    return found


def _not_found(path: str) -> PathNotFound:
    return PathNotFound(f'"/{path.strip("/")}": not found')
