"""The value that stands for a file system: a chain of layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["Snapshot", "renamed"]


class Snapshot:
    """A chain of layers by their ids, lowest first; the empty chain is `scratch`. Immutable.

    A chain knows the one it lies on (`below`, None for the empty one) and its uppermost layer (`top`), and
    chains made by `on` share what is below: a build of thousands of steps has as many chains, and each costs
    the same to make, to hash and to compare with one that it is made of.
    """

    __slots__ = ("__weakref__", "_hash", "below", "depth", "top")

    below: Snapshot | None
    top: str
    depth: int

    def __init__(self, layers: Iterable[str] = ()) -> None:
        ids = [str(layer) for layer in layers]
        self.below, self.top, self.depth, self._hash = None, "", 0, 0
        if ids:
            below = _EMPTY
            for layer in ids[:-1]:
                below = below.on(layer)
            self._put(below, ids[-1])

    def _put(self, below: Snapshot, layer: str) -> None:
        self.below, self.top, self.depth = below, layer, below.depth + 1
        self._hash = hash((below._hash, layer))

    def on(self, layer: str) -> Snapshot:
        """This chain with one more layer."""
        made = Snapshot.__new__(Snapshot)
        made._put(self, str(layer))
        return made

    @property
    def layers(self) -> tuple[str, ...]:
        """All ids, lowest first; made anew each time."""
        found = []
        at = self
        while at.below is not None:
            found.append(at.top)
            at = at.below
        return tuple(reversed(found))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Snapshot):
            return NotImplemented
        one: Snapshot | None = self
        two: Snapshot | None = other
        if self._hash != other._hash or self.depth != other.depth:
            return False
        while one is not two:
            if one is None or two is None or one.top != two.top:
                return False
            one, two = one.below, two.below
        return True

    def __hash__(self) -> int:
        return self._hash

    def __repr__(self) -> str:
        return f"Snapshot({self.layers!r})"


def renamed(
    chain: Snapshot, name_of: Callable[[str], str | None], known: dict[Snapshot, Snapshot]
) -> Snapshot:
    """`chain` with other names for its layers; one without a name (None) is left out. `known` has what was
    renamed before, and is added to: of chains that lie on one another each costs what is new of it."""
    new = []
    at = chain
    while at.below is not None and at not in known:
        new.append(at)
        at = at.below
    made = known.get(at, _EMPTY)
    for at in reversed(new):
        name = name_of(at.top)
        made = known[at] = made if name is None else made.on(name)
    return made


_EMPTY = Snapshot()
