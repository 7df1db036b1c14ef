"""A build's steps under the keys of BuildKit's own caches: which are found in caches that are read, and by
what they are written into others."""

from __future__ import annotations

import asyncio
import hashlib
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING

from anyarch.errors import AnyarchError
from anyarch.llb.ops import ExecOp, FileOp, SourceOp
from anyarch.solver.vertex import Edge
from anyarch.worker.result import LocalResult, SnapshotResult

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from anyarch.cache.contents import Attributes, Selector
    from anyarch.cache.importer import ImportedCache
    from anyarch.cache.stock import StockKey
    from anyarch.llb.definition import Definition
    from anyarch.solver.solved import Solved
    from anyarch.solver.solver import Solver
    from anyarch.worker.result import Result
    from anyarch.worker.worker import Worker

__all__ = ["StockKeys"]

_FORM = 2
"""Changes when the hashes of contents are made in another way."""


class StockKeys:
    """The keys of the vertices of `definitions`; `find` and `adopt` before the build, `complete` after it."""

    def __init__(self, solver: Solver, worker: Worker, definitions: Sequence[Definition]) -> None:
        self.keys: dict[str, StockKey] = {}
        self._solver = solver
        self._worker = worker
        self._definitions = definitions
        self._sources: dict[str, Sequence[str]] = {}
        self._contents: dict[str, dict[int, list[str]]] = {}
        self._attributes: dict[str, tuple[Attributes, str]] = {}  # of directories, and what tells them apart
        self._local: dict[SnapshotResult, tuple[bool, str]] = {}  # whether all its bytes are here; its name

    async def find(self) -> None:
        """What is known without running anything: sources by their names, local directories by their
        content."""
        for one in self._solver.vertices:
            ask = getattr(one.operation, "stock_names", None)
            if ask is not None:
                with suppress(AnyarchError):  # what cannot be had is told when it is solved
                    self._sources[one.digest] = await ask()
        for digest, number, vertex, _, selectors in self._used:
            if self._is_local(vertex):
                with suppress(AnyarchError):
                    (result,) = await self._solver.vertex(vertex).operation.run(())
                    await self._learn(digest, number, result, selectors)
        await self._update()

    async def adopt(self, caches: Sequence[ImportedCache]) -> None:
        """Know what the caches have under these keys under ours too. What comes from git or a URL, and is
        found neither by that nor in the store, is looked for by its content: then it had to be fetched
        anyway."""
        if not caches:
            return
        tried: set[tuple[str, int]] = set()
        while wanted := [item for item in await self._adopt(caches) if item[:2] not in tried]:
            learned = False
            for digest, number, edge, selectors in wanted:
                tried.add((digest, number))
                with suppress(AnyarchError):  # told when it is solved
                    (result,) = await self._solver.solve([edge])
                    learned |= await self._learn(digest, number, result, selectors)
            if not learned:
                return
            await self._update()

    async def complete(self) -> list[Solved]:
        """Learn the contents of what was made or found, as far as its bytes are here. Answers all of that."""
        solved = self._solver.solved()
        results = {item.vertex.digest: item.outputs for item in solved if item.outputs is not None}
        for digest, number, vertex, output, selectors in self._used:
            outputs = results.get(vertex, ())
            if digest in results and output < len(outputs) and isinstance(outputs[output], SnapshotResult):
                with suppress(AnyarchError):
                    await self._learn(digest, number, outputs[output], selectors)
        await self._update()
        return solved

    # -- keys

    async def _update(self) -> None:
        from anyarch.cache.stock import stock_keys

        self.keys = await asyncio.to_thread(
            stock_keys, self._definitions, self._sources, self._worker.platform, self._contents
        )

    async def _adopt(self, caches: Sequence[ImportedCache]) -> list[tuple[str, int, Edge, list[Selector]]]:
        """Inputs come first, and what has a key by the content of a stage counts only when it was found: so
        no key has to run anything to be known. Answers what could be found if the content of a fetched source
        were known: vertex, number of the input, the input, what is used of it."""
        found = []
        recorded: set[str] = set()
        for cache in caches:
            matched = await asyncio.to_thread(cache.adopt, self.keys)
            found.append((cache, matched.results))
            recorded |= matched.records
            for vertex, positions in matched.contents.items():
                for number, records in positions.items():
                    self._add(vertex, number, records)
        bases: set[str] = set()
        for one in self._solver.vertices:
            ask = getattr(one.operation, "diff_ids", None)
            if ask is not None and one.digest in self.keys:
                bases.update(await ask())
        used: dict[str, list[tuple[int, str, int, list[Selector]]]] = {}
        for digest, number, vertex, output, selectors in self._used:
            used.setdefault(digest, []).append((number, vertex, output, selectors))
        leading = self._leading(recorded, {vertex for _, results in found for vertex in results})
        idle = {one.digest for one in self._solver.vertices if self._is_local(one.digest)}
        wanted = []
        for digest in self.keys:
            if digest not in self._solver:
                continue
            one = self._solver.vertex(digest)
            if one.ignore_cache or not all(edge.vertex in idle for edge in one.inputs):
                continue
            having = [(cache, chains[digest]) for cache, chains in found if digest in chains]
            cache_map = await one.operation.cache_map()
            contents = [
                edge.vertex
                for edge, ask in zip(one.inputs, cache_map.content, strict=False)
                if ask is not None
            ]
            key = await self._solver.definition_key(digest)
            if having or all(map(self._is_local, contents)) or self._solver.is_saved(key):
                idle.add(digest)
            elif digest in leading:
                # With mode=min a stage that is copied from has a record and no result.
                one.by_definition = True
                idle.add(digest)
            else:
                wanted += [
                    (digest, number, Edge(vertex, output), selectors)
                    for number, vertex, output, selectors in used.get(digest, ())
                    if self._is_fetched(vertex)
                ]
            for cache, outputs in having:
                cache.add(key, outputs, bases)
        return wanted

    def _leading(self, recorded: set[str], having: set[str]) -> set[str]:
        """Those of `recorded` from which a way leads, over others of them, to one that has a result."""
        leading: set[str] = set()
        for digest in reversed(list(self.keys)):
            if digest in self._solver and (digest in having or digest in leading):
                inputs = {edge.vertex for edge in self._solver.vertex(digest).inputs}
                leading |= inputs & recorded
        return leading

    # -- contents

    @cached_property
    def _used(self) -> list[tuple[str, int, str, int, list[Selector]]]:
        """Of each operation the inputs of which the content may stand for them: vertex, number of the input,
        the input's vertex and output, and what is used of it."""
        from anyarch.cache.contents import copied, mounted

        found = []
        seen: set[str] = set()
        for definition in self._definitions:
            for digest, op in definition.decoded.items():
                if digest in seen or digest not in self._solver:
                    continue
                seen.add(digest)
                for number, item in enumerate(op.inputs):
                    match op.kind:
                        case FileOp():
                            selectors = copied(op.kind, number, len(op.inputs))
                        case ExecOp():
                            selectors = mounted(op.kind, number)
                        case _:
                            selectors = None
                    if selectors is not None:
                        found.append((digest, number, item.digest, item.index, selectors))
        return found

    async def _learn(self, digest: str, number: int, result: Result, selectors: Sequence[Selector]) -> bool:
        """Have the hash of a content, which is kept with what the content is of. False where that cannot be
        told, because some of it is elsewhere."""
        from anyarch.cache.stock import content_record

        attributes: Attributes | None = None
        if isinstance(result, LocalResult):
            attributes, other = await asyncio.to_thread(self._attributes_of, result)
            name = f"{result.digest}{other}"
        elif isinstance(result, SnapshotResult):
            is_here, name = self._place(result)
            if not is_here:
                return False
        else:
            return False
        text = repr((_FORM, name, selectors))
        key = hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
        memo = self._worker.store.cache
        known = memo.get_value("stock-content", key)
        if known is None:
            known = (await asyncio.to_thread(self._hash, result, selectors, attributes)).encode()
            memo.set_value("stock-content", key, known)
        self._add(digest, number, [content_record(known.decode())])
        return True

    def _hash(self, result: Result, selectors: Sequence[Selector], attributes: Attributes | None) -> str:
        from anyarch.cache.contents import content_digest

        return content_digest(self._worker.view(result), selectors, self._worker.patterns, attributes)

    def _attributes_of(self, result: LocalResult) -> tuple[Attributes, str]:
        from anyarch.cache.contents import attributes_of

        known = self._attributes.get(result.digest)
        if known is None:
            found = result.attributes if result.attributes is not None else attributes_of(result.tree)
            name = hashlib.sha256(repr(sorted(found.items())).encode("utf-8", "surrogateescape")).hexdigest()
            known = self._attributes[result.digest] = (found, f"+{name}" if found else "")
        return known

    def _place(self, result: SnapshotResult) -> tuple[bool, str]:
        """Whether the bytes of all layers are here, and a name for the chain; each layer is asked once."""
        new = []
        at = result
        while at.below is not None and at not in self._local:
            new.append(at)
            at = at.below
        is_here, name = self._local.get(at, (True, ""))
        layers = self._worker.layers
        for at in reversed(new):
            is_here = is_here and not layers.missing([layers.get(at.top)])
            name = hashlib.sha256(f"{name}\0{at.top}".encode()).hexdigest()
            self._local[at] = (is_here, name)
        return is_here, name

    def _add(self, digest: str, number: int, records: Iterable[str]) -> None:
        known = self._contents.setdefault(digest, {}).setdefault(number, [])
        known += [record for record in dict.fromkeys(records) if record not in known]

    def _is_local(self, digest: str) -> bool:
        """Whether a vertex is a local directory."""
        if digest not in self._solver:
            return False
        return getattr(self._solver.vertex(digest).operation, "is_local", False) is True

    def _is_fetched(self, digest: str) -> bool:
        """Whether a vertex is a git repository or a URL."""
        ops = (definition.decoded.get(digest) for definition in self._definitions)
        op = next((op for op in ops if op is not None), None)
        if op is None or digest not in self._solver or not isinstance(op.kind, SourceOp):
            return False
        return op.kind.identifier.startswith(("git://", "http://", "https://"))
