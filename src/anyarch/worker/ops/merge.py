"""Merge, diff and passthrough: new chains of existing layers; no byte is copied where that is possible."""

from __future__ import annotations

import asyncio
import hashlib
from typing import TYPE_CHECKING

from anyarch.errors import BuildError
from anyarch.solver.vertex import CacheMap
from anyarch.worker.result import LocalResult, SnapshotResult

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from anyarch.llb.ops import DiffOp, MergeOp, PassthroughOp
    from anyarch.worker.result import Result
    from anyarch.worker.worker import Worker

__all__ = ["DiffOperation", "MergeOperation", "PassthroughOperation"]

_MOST_LAYERS = 20_000
"""Merges of merges of one tree double with each step."""


def _check_inputs(kind: str, wanted: Iterable[int], inputs: int, *, least: int = -1) -> None:
    for index in wanted:
        if not least <= index < inputs:
            raise BuildError(f"invalid {kind} input index {index}")


class MergeOperation:
    """The layers of all inputs, the first input's lowest."""

    def __init__(self, worker: Worker, op: MergeOp, inputs: int) -> None:
        _check_inputs("merge", op.inputs, inputs)
        self._worker = worker
        self._op = op
        self._inputs = inputs

    @property
    def order(self) -> tuple[int, ...]:
        """Its inputs, lowest first; -1 is an empty tree."""
        return self._op.inputs

    async def cache_map(self) -> CacheMap:
        digest = hashlib.sha256(repr(("merge/1", self._op.inputs)).encode()).hexdigest()
        return CacheMap(digest, (None,) * self._inputs)

    async def run(self, inputs: Sequence[Result]) -> Sequence[Result]:
        layers: list[str] = []
        for index in self._op.inputs:
            result = inputs[index] if index >= 0 else None
            if isinstance(result, LocalResult):
                result = await asyncio.to_thread(self._worker.materialize, result)
            if result is not None:
                layers.extend(result.layers)
            if len(layers) > _MOST_LAYERS:
                raise BuildError(f"a merge of more than {_MOST_LAYERS} layers")
        return [SnapshotResult(tuple(layers)) if layers else None]


class DiffOperation:
    """What `upper` has above `lower`: the layers themselves where `upper` was built on `lower`, else a layer
    made by comparing the trees."""

    def __init__(self, worker: Worker, op: DiffOp, inputs: int) -> None:
        _check_inputs("diff", (op.lower, op.upper), inputs)
        self._worker = worker
        self._op = op
        self._inputs = inputs

    async def cache_map(self) -> CacheMap:
        digest = hashlib.sha256(repr(("diff/2", self._op.lower, self._op.upper)).encode()).hexdigest()
        return CacheMap(digest, (None,) * self._inputs)

    async def run(self, inputs: Sequence[Result]) -> Sequence[Result]:
        results: list[SnapshotResult | None] = []
        for index in (self._op.lower, self._op.upper):
            result = inputs[index] if index >= 0 else None
            if isinstance(result, LocalResult):
                result = await asyncio.to_thread(self._worker.materialize, result)
            results.append(result)
        lower, upper = (result.layers if result is not None else () for result in results)
        if upper[: len(lower)] == lower:
            rest = upper[len(lower) :]
            return [SnapshotResult(rest) if rest else None]
        for result in results:
            if result is not None:
                await self._worker.ensure_local(result)
        return [await asyncio.to_thread(self._compared, results[0], results[1])]

    def _compared(self, lower: Result, upper: Result) -> Result:
        from anyarch.worker.treediff import diff_layer

        worker = self._worker
        layer = diff_layer(worker.layers, worker.view(lower), worker.view(upper))
        return SnapshotResult((layer,)) if layer is not None else None


class PassthroughOperation:
    """Inputs given on as they are."""

    def __init__(self, op: PassthroughOp, inputs: int) -> None:
        if not op.id:
            raise BuildError("invalid passthrough op with no id")
        if not op.outputs:
            raise BuildError("invalid passthrough op with no outputs")
        _check_inputs("passthrough output", op.outputs, inputs, least=0)
        self._op = op
        self._inputs = inputs

    async def cache_map(self) -> CacheMap:
        digest = hashlib.sha256(repr(("passthrough/1", self._op.id, self._op.outputs)).encode()).hexdigest()
        return CacheMap(digest, (None,) * self._inputs)

    async def run(self, inputs: Sequence[Result]) -> Sequence[Result]:
        return [inputs[index] for index in self._op.outputs]
