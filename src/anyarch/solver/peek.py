"""What of a graph is known already: the solver's questions to the cache, without running anything."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anyarch.solver.solver import derived_key, edge_key, output_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from anyarch.solver.vertex import CacheMap, CacheStore, Edge, Result, Vertex

__all__ = ["Peek"]


class Peek:
    """`may_read(result)` says whether the content of a result can be looked at here and now; where it
    cannot, a vertex that is only known by content counts as not cached. `may_run(vertex)` names the sources
    that are cheap to read, such as a local directory."""

    def __init__(
        self,
        vertices: Mapping[str, Vertex],
        cache: CacheStore,
        *,
        may_run: Callable[[Vertex], bool],
        may_read: Callable[[Result], bool],
    ) -> None:
        self._vertices = vertices
        self._cache = cache
        self._may_run = may_run
        self._may_read = may_read
        self._keys: dict[str, str | None] = {}
        self._outputs: dict[str, Sequence[Result]] = {}

    async def is_cached(self, digest: str) -> bool:
        """Whether a build would take the result of this vertex from the cache."""
        return await self._key(digest) is not None

    async def _key(self, digest: str) -> str | None:
        # Inputs first and without recursion: a Dockerfile may have more steps than Python has frames.
        stack = [digest]
        while stack:
            current = stack[-1]
            waiting = [e.vertex for e in self._vertices[current].inputs if e.vertex not in self._keys]
            if waiting:
                stack += waiting
                continue
            stack.pop()
            if current not in self._keys:
                self._keys[current] = await self._find(self._vertices[current])
        return self._keys[digest]

    async def _find(self, vertex: Vertex) -> str | None:
        keys: list[str] = []
        for edge in vertex.inputs:
            key = self._keys[edge.vertex]
            if key is None:
                return None
            keys.append(edge_key(key, edge.index))
        cache_map = await vertex.operation.cache_map()
        fast = derived_key("definition", cache_map.definition or cache_map.digest, keys)
        if cache_map.is_source:
            return fast
        if vertex.ignore_cache:
            return None
        for candidate in (self._cache.canonical(fast), fast):
            if candidate is not None and self._load(vertex, candidate):
                return candidate
        if any(cache_map.content):
            return await self._by_content(vertex, cache_map, keys)
        return None

    async def _by_content(self, vertex: Vertex, cache_map: CacheMap, keys: list[str]) -> str | None:
        parts = []
        for position, content in enumerate(cache_map.content):
            if content is None:
                parts.append(keys[position])
                continue
            found = await self._output(vertex.inputs[position])
            if found is None or not self._may_read(found[0]):
                return None
            parts.append("content:" + await content(found[0]))
        slow = derived_key("content", cache_map.digest, parts)
        canonical = self._cache.canonical(slow) or slow
        return canonical if self._load(vertex, canonical) else None

    async def _output(self, edge: Edge) -> tuple[Result] | None:
        outputs = self._outputs.get(edge.vertex)
        if outputs is None:
            vertex = self._vertices[edge.vertex]
            if vertex.inputs or not self._may_run(vertex):
                return None
            outputs = self._outputs[edge.vertex] = await vertex.operation.run(())
        return (output_of(outputs, edge),)

    def _load(self, vertex: Vertex, canonical: str) -> bool:
        outputs = self._cache.load(canonical)
        if outputs is None:
            return False
        self._outputs[vertex.digest] = outputs
        return True
