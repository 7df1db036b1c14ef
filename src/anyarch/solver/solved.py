"""What a solver knows of a vertex after a build, for whoever writes it down elsewhere (`cache`)."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from anyarch.solver.vertex import Result, Vertex

__all__ = ["Solved"]


class Solved(msgspec.Struct, frozen=True):
    """`canonical` is the key of the results, `keys` are others that lead to it, `inputs` the canonical keys
    of the edges that the vertex takes. `outputs` is None while they are not known."""

    vertex: Vertex
    canonical: str
    keys: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: Sequence[Result] | None
    is_source: bool
