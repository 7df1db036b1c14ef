"""Vertices and edges of a graph as the solver sees them, and what it wants from whoever runs them.

The solver does not know what an operation does. It knows a vertex's inputs, asks its `Operation` for a cache
map and, when no result is known, to run. `Result` is opaque here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anyarch.errors import SourceRange

__all__ = ["MISSING", "CacheMap", "CacheStore", "ContentKey", "Edge", "Operation", "Result", "Vertex"]

Result = Any
"""What an operation makes for one output; opaque to the solver. None is the empty root."""

MISSING: Result = type("Missing", (), {"__repr__": lambda self: "MISSING"})()
"""Among saved outputs: one of which nothing is known. Build caches keep what a result consists of alone."""

ContentKey = Callable[[Result], Awaitable[str]]
"""Computes the key of what an operation uses of an input, from the input's content."""


class Edge(msgspec.Struct, frozen=True):
    """One output of a vertex."""

    vertex: str
    index: int = 0


class Vertex:
    """One node: its identity, its inputs and how it is shown. `seconds` is how long its operation ran, 0
    until it has."""

    __slots__ = (
        "by_definition",
        "digest",
        "ignore_cache",
        "inputs",
        "name",
        "operation",
        "platform",
        "seconds",
        "source",
    )

    def __init__(
        self,
        digest: str,
        operation: Operation,
        *,
        name: str,
        inputs: Sequence[Edge] = (),
        ignore_cache: bool = False,
        source: SourceRange | None = None,
        platform: str | None = None,
    ) -> None:
        self.digest = digest
        self.operation = operation
        self.name = name
        self.inputs = tuple(inputs)
        self.ignore_cache = ignore_cache
        self.source = source
        self.platform = platform
        self.seconds = 0.0
        self.by_definition = False
        """Whether its key is that by definition, whatever is known of it by content: what lies on it is known
        by that one."""


class CacheMap(msgspec.Struct, frozen=True):
    """How a vertex is known again.

    `digest` is the operation without its inputs; `definition` the same with what an input's content stands
    for in `digest` (which of its files are used), empty where there is no difference. `content` has one
    item an input: None where the input's own key stands for it, else the function that reads from the
    input's content what the operation uses of it. `is_source` marks a vertex without inputs whose result is
    cheap to make again from what is already known (a local directory, a resolved image): its result is
    never saved.
    """

    digest: str
    content: tuple[ContentKey | None, ...] = ()
    is_source: bool = False
    definition: str = ""


class Operation(Protocol):
    """What the worker offers for one vertex. One whose `works_for_key` is true does its work, such as a
    transfer, in `cache_map` already: the vertex lasts as long."""

    async def cache_map(self) -> CacheMap: ...

    async def run(self, inputs: Sequence[Result]) -> Sequence[Result]:
        """Make all outputs. Called at most once in the life of a solver."""
        ...


class CacheStore(Protocol):
    """Where keys and results outlive the process. Calls are short and synchronous."""

    def canonical(self, key: str) -> str | None:
        """The key that `key` was linked to, if it was."""
        ...

    def link(self, key: str, canonical: str) -> None: ...

    def has(self, canonical: str) -> bool:
        """Whether outputs were saved; they may turn out not to be whole any more when they are loaded."""
        ...

    def load(self, canonical: str) -> Sequence[Result] | None:
        """The saved outputs (some may be `MISSING`), None when there are none or they are no longer whole."""
        ...

    def save(self, canonical: str, outputs: Sequence[Result], vertex: Vertex) -> None:
        """Keep the outputs, and link `canonical` to itself: that tells, also when they were pruned, that they
        were made once."""
        ...
