"""Merge and diff: new chains of existing layers, without copying a byte."""

from __future__ import annotations

import asyncio
import hashlib
from typing import TYPE_CHECKING

from anyarch.errors import NotSupported
from anyarch.solver.vertex import CacheMap
from anyarch.worker.result import LocalResult, SnapshotResult

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anyarch.llb.ops import DiffOp, MergeOp
    from anyarch.worker.result import Result
    from anyarch.worker.worker import Worker

__all__ = ["DiffOperation", "MergeOperation"]


class MergeOperation:
    """The layers of all inputs, the first input's lowest."""

    def __init__(self, worker: Worker, op: MergeOp, inputs: int) -> None:
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
        return [SnapshotResult(tuple(layers)) if layers else None]


class DiffOperation:
    """What `upper` has above `lower`: the layers themselves where `upper` was built on `lower`."""

    def __init__(self, worker: Worker, op: DiffOp, inputs: int) -> None:
        self._worker = worker
        self._op = op
        self._inputs = inputs

    async def cache_map(self) -> CacheMap:
        digest = hashlib.sha256(repr(("diff/1", self._op.lower, self._op.upper)).encode()).hexdigest()
        return CacheMap(digest, (None,) * self._inputs)

    async def run(self, inputs: Sequence[Result]) -> Sequence[Result]:
        chains = []
        for index in (self._op.lower, self._op.upper):
            result = inputs[index] if index >= 0 else None
            if isinstance(result, LocalResult):
                result = await asyncio.to_thread(self._worker.materialize, result)
            chains.append(result.layers if result is not None else ())
        lower, upper = chains
        if upper[: len(lower)] != lower:
            raise NotSupported(
                "diff of two trees of which the upper one was not built on the lower one is not supported yet"
            )
        rest = upper[len(lower) :]
        return [SnapshotResult(rest) if rest else None]
