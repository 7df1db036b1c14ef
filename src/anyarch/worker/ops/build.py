"""Nested builds: a definition that is a file in the tree of an input, solved as a part of this build."""

from __future__ import annotations

import asyncio
import hashlib
from typing import TYPE_CHECKING

from anyarch.archive.entry import Kind
from anyarch.errors import BuildError, PathNotFound
from anyarch.llb.definition import Definition
from anyarch.solver.vertex import CacheMap
from anyarch.worker.result import SnapshotResult

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anyarch.llb.ops import BuildOp
    from anyarch.solver.solver import Solver
    from anyarch.worker.result import Result
    from anyarch.worker.worker import Worker

__all__ = ["BuildOperation"]

_BUILDER = -1  # the solver itself: no other is known to the protocol
_INPUT = "buildkit.llb.definition"
_FILE = "buildkit.llb.definition"
_MAX_DEFINITION = 64 << 20


class BuildOperation:
    """Reads a definition (`pb.Definition`) and gives its result."""

    def __init__(self, worker: Worker, solver: Solver, op: BuildOp, inputs: int, digest: str) -> None:
        if op.builder != _BUILDER:
            raise BuildError("only LLB builder is currently allowed")
        if _INPUT not in op.inputs:
            raise BuildError(f"no llb definition input {_INPUT} found")
        self._input = op.inputs[_INPUT]
        if not 0 <= self._input < inputs:
            raise BuildError(f"invalid index {self._input}")
        self._worker = worker
        self._solver = solver
        self._op = op
        self._inputs = inputs
        self._vertex = digest

    async def cache_map(self) -> CacheMap:
        facts = ("build/1", sorted(self._op.inputs.items()), sorted(self._op.attrs.items()))
        return CacheMap(hashlib.sha256(repr(facts).encode()).hexdigest(), (None,) * self._inputs)

    async def run(self, inputs: Sequence[Result]) -> Sequence[Result]:
        from anyarch.worker.graph import load

        result = inputs[self._input]
        if isinstance(result, SnapshotResult):
            await self._worker.ensure_local(result)
        definition = await asyncio.to_thread(self._read, result)
        edge = load(self._solver, self._worker, definition)
        if edge is None:
            return [None]
        _wait_for(self._worker.nested_waits, self._vertex, definition.digests)
        return [(await self._solver.solve([edge]))[0]]

    def _read(self, result: Result) -> Definition:
        name = self._op.attrs.get("llbbuild.filename") or _FILE
        tree = self._worker.view(result)
        node = tree.lookup(tree.resolve(name))
        if node is None:
            raise PathNotFound(f"failed to open {name}: no such file or directory")
        file = tree.target(node)
        if file.entry.kind is not Kind.FILE:
            raise BuildError(f"{name} is not a regular file")
        if file.entry.size > _MAX_DEFINITION:
            raise BuildError(f"{name}: a definition of {file.entry.size} bytes is too large")
        with tree.open(node) as stream:
            raw = stream.read()
        return Definition.unmarshal(raw)


def _wait_for(waits: dict[str, frozenset[str]], vertex: str, needed: Sequence[str]) -> None:
    """Note in `waits` that `vertex` is going to wait for `needed`. Raises `BuildError` when those wait for
    it: nested builds that wait for one another would wait for ever."""
    waits[vertex] = frozenset(needed)
    seen: set[str] = set()
    todo = list(needed)
    while todo:
        digest = todo.pop()
        if digest == vertex:
            del waits[vertex]
            raise BuildError(
                "a nested build needs its own result", hint="the definition it reads contains itself"
            )
        if digest not in seen:
            seen.add(digest)
            todo += waits.get(digest, ())
