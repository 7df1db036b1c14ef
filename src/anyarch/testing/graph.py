"""Runs LLB states without a Dockerfile: a graph in, a tree to look into out.

tree = solve(scratch().file(ActionMkfile("/a", 0o644, b"text")))
assert tree.read("/a") == b"text"
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from anyarch.archive.entry import Kind
from anyarch.engine.cache import StoredCache
from anyarch.solver.solver import Solver
from anyarch.store.store import Store
from anyarch.worker.graph import load
from anyarch.worker.result import LocalResult
from anyarch.worker.worker import Worker

if TYPE_CHECKING:
    from pathlib import Path

    from anyarch.archive.entry import Entry
    from anyarch.llb.definition import Definition
    from anyarch.llb.state import State
    from anyarch.solver.events import Event

__all__ = ["GraphBuilder", "Tree"]


class Tree:
    """The files of a result as they were, and what was done to get them."""

    def __init__(
        self,
        entries: dict[str, Entry],
        contents: dict[str, bytes],
        layers: tuple[str, ...],
        executed: list[str],
        events: list[Event],
    ) -> None:
        self.entries = entries
        self.layers = layers
        self.executed = executed
        self.events = events
        self._contents = contents

    def read(self, path: str) -> bytes:
        return self._contents[path.strip("/")]

    def entry(self, path: str) -> Entry:
        return self.entries[path.strip("/")]

    @property
    def paths(self) -> list[str]:
        return sorted(path for path in self.entries if path)


class GraphBuilder:
    """Solves in one store below `directory`. Keyword arguments go to the `Worker` of every build."""

    def __init__(self, directory: Path, **defaults: Any) -> None:
        self.store = directory / "store"
        self._defaults = defaults

    def __call__(self, wanted: State | Definition, /, **more: Any) -> Tree:
        return asyncio.run(self._solve(wanted, {**self._defaults, **more}))

    async def _solve(self, wanted: State | Definition, options: dict[str, Any]) -> Tree:
        from anyarch.llb.definition import Definition

        definition = wanted if isinstance(wanted, Definition) else wanted.marshal()
        events: list[Event] = []
        emit = events.append
        with Store.open(self.store) as store:
            async with (
                Worker(store, emit, **options) as worker,
                Solver(StoredCache(store.cache), emit) as solver,
            ):
                # As it comes from a client: bytes, decoded here.
                edge = load(solver, worker, Definition.unmarshal(definition.marshal()))
                if edge is None:
                    return Tree({}, {}, (), [], events)
                result = (await solver.solve([edge]))[0]
                executed = [vertex.name for vertex in solver.executed]
                if isinstance(result, LocalResult):
                    result = await asyncio.to_thread(worker.materialize, result)
                if result is None:
                    return Tree({}, {}, (), executed, events)
                await worker.ensure_local(result)
                tree = worker.view(result)
                entries, contents = {}, {}
                for node in tree.walk(""):
                    target = tree.target(node)
                    entries[node.entry.path] = node.entry
                    if target.entry.kind is Kind.FILE:
                        with tree.open(node) as stream:
                            contents[node.entry.path] = stream.read()
                return Tree(entries, contents, result.layers, executed, events)
