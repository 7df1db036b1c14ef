"""The layers of a view, in blocks that views of longer chains take over, and the search through them.

A look-up goes from the uppermost layer down. Of a chain of thousands of layers nearly all have nothing to do
with a path: so 2, 4, 8, … neighbouring layers are blocks, and a block that was searched in vain a few times
learns which paths are in it. A chain with one more layer has the same blocks but for the last few.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from anyarch.archive.entry import Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from anyarch.snapshot.index import LayerIndex
    from anyarch.snapshot.layers import Layer

__all__ = ["Leaf", "Stack"]

_LEAST = 16  # layers: fewer are looked through as fast as a block of them
_SEARCHES = 8  # in vain, until it pays to know what is in a block


class Leaf:
    """One layer, with its index once that was needed."""

    __slots__ = ("_index", "_load", "layer", "position", "size")

    def __init__(self, layer: Layer | None, position: int, load: Callable[[], LayerIndex]) -> None:
        self.layer = layer
        self.position = position
        self.size: int = 1
        self._load = load
        self._index: LayerIndex | None = None

    @property
    def index(self) -> LayerIndex:
        if self._index is None:
            self._index = self._load()
        return self._index


class _Block:
    """Two parts, the first one lower. `paths` are all that have an entry in it or are implied by one, `ends`
    those below which it hides what is further down; None until they are wanted."""

    __slots__ = ("ends", "parts", "paths", "searches", "size")

    def __init__(self, lower: _Part, upper: _Part) -> None:
        self.parts = (lower, upper)
        self.size: int = lower.size + upper.size
        self.paths: frozenset[str] | None = None
        self.ends: frozenset[str] = frozenset()
        self.searches = 0

    def was_searched(self) -> None:
        """To the end, so all its indexes are loaded."""
        self.searches += 1
        if self.searches >= _SEARCHES:
            self._learn()

    def _learn(self) -> None:
        if self.paths is not None:
            return
        paths: set[str] = set()
        ends: set[str] = set()
        for part in self.parts:
            if isinstance(part, Leaf):
                index = part.index
                paths.update(index.paths)
                paths |= index.implicit
                ends.update(entry.path for entry in index if entry.kind is not Kind.DIRECTORY or entry.opaque)
            else:
                part._learn()
                assert part.paths is not None
                paths |= part.paths
                ends |= part.ends
        self.ends = frozenset(ends)
        self.paths = frozenset(paths)

    def may_concern(self, path: str, above: Sequence[str]) -> bool:
        """Whether a search for `path`, with the directories `above` it, has to look into this block."""
        paths = self.paths
        if paths is None or path in paths or not path:  # every layer has a part in the root
            return True
        ends = self.ends
        return any(directory in ends for directory in above)


_Part = Leaf | _Block


class Stack:
    """Layers one upon another, lowest first. Immutable but for what it learns; thread-safe."""

    __slots__ = ("_parts", "_shallow", "depth")

    def __init__(self, parts: tuple[_Part, ...] = (), depth: int = 0) -> None:
        self._parts = parts  # sizes fall from left to right, no two are equal
        self._shallow: tuple[Leaf, ...] = ()  # all, uppermost first, where they are few
        self.depth = depth

    def on(self, layer: Layer | None, load: Callable[[], LayerIndex]) -> Stack:
        """This stack with one more layer; `load` gives its index."""
        parts = list(self._parts)
        last: _Part = Leaf(layer, self.depth, load)
        while parts and parts[-1].size == last.size:
            last = _Block(parts.pop(), last)
        parts.append(last)
        return Stack(tuple(parts), self.depth + 1)

    def leaf(self, position: int) -> Leaf:
        """The layer at a position, 0 the lowest."""
        for part in self._parts:
            if position < part.size:
                break
            position -= part.size
        else:
            raise IndexError(position)
        while isinstance(part, _Block):
            lower, upper = part.parts
            if position < lower.size:
                part = lower
            else:
                position -= lower.size
                part = upper
        return part

    def _leaves(self) -> tuple[Leaf, ...]:
        if not self._shallow:
            self._shallow = tuple(self.leaf(position) for position in range(self.depth - 1, -1, -1))
        return self._shallow

    def search(self, path: str, above: Sequence[str]) -> Iterator[Leaf]:
        """The layers that may have to do with `path`, uppermost first: those that have an entry of it or
        imply it, those that hide what is further down of the directories `above` it, and others. The index
        of a lower layer is not asked for before an upper one was given."""
        if self.depth <= _LEAST:
            yield from self._leaves()
            return
        todo: list[_Part | None] = list(self._parts)
        opened: list[_Block] = []
        while todo:
            part = todo.pop()
            if part is None:
                opened.pop().was_searched()
            elif isinstance(part, Leaf):
                yield part
            elif part.may_concern(path, above):
                if part.paths is None and part.size >= _LEAST:
                    opened.append(part)
                    todo.append(None)  # comes up when all of it was given
                todo += part.parts
