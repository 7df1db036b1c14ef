"""The scheduler: solves each vertex once, however many platforms, stages or callers ask for it.

A vertex is attacked in this order (DESIGN.md, "Solver"):

1. definition key: the operation's digest and its inputs' keys. Known → the saved result, no input is
evaluated.
2. content key: for inputs of which the operation says how (COPY sources, bind mounts), what is really used
of them. Known → the saved result; the definition key is linked to it for the next time.
3. run.

While a key waits for an operation that is run, the other inputs of which nothing is saved are made too:
stages that one stage copies from run side by side.

Every key is resolved to a *canonical* key, the one under which the result is saved; what lies downstream
builds its own keys on the canonical one. So two definitions that turn out to have equal content share
everything after them.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from contextvars import ContextVar, copy_context
from typing import TYPE_CHECKING, Any

from anyarch.errors import BuildError, FailedState, PathNotFound, error_context
from anyarch.solver.events import VertexEvent
from anyarch.solver.inflight import InFlight
from anyarch.solver.vertex import MISSING

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable, Sequence
    from contextvars import Context

    from anyarch.solver.events import EventSink
    from anyarch.solver.solved import Solved
    from anyarch.solver.vertex import CacheMap, CacheStore, Edge, Result, Vertex

__all__ = ["Solver", "derived_key", "edge_key"]


def derived_key(kind: str, digest: str, parts: Iterable[str]) -> str:
    """The key of a vertex: `kind` is what it is made of (definition, content), `parts` its inputs' keys."""
    return hashlib.sha256("\0".join((kind, digest, *parts)).encode()).hexdigest()


_enclosing: ContextVar[frozenset[str]] = ContextVar("enclosing", default=frozenset())
"""The canonical keys of what is running and asked for this: a nested build must not wait for itself."""


class _State:
    """What is known of one vertex during the life of a solver."""

    __slots__ = (
        "cached",
        "canonical",
        "completed",
        "context",
        "dependents",
        "error",
        "is_source",
        "is_stalled",
        "key",
        "keys",
        "known_by",
        "must_run",
        "number",
        "reads",
        "result",
        "saved",
        "started",
        "vertex",
        "wanted",
    )

    def __init__(self, vertex: Vertex, number: int) -> None:
        self.vertex = vertex
        self.number = number  # its place among those that were added: inputs come before
        self.key: asyncio.Future[str] | None = None
        self.result: asyncio.Future[Sequence[Result]] | None = None
        self.keys: tuple[str, ...] = ()  # what is linked to the canonical key when the result is saved
        self.known_by: tuple[str, ...] = ()  # keys by definition and by content
        self.is_source = False
        self.dependents: list[_State] = []  # those that have it as an input
        self.context: Context | None = None  # of whoever asked for the key, once the inputs' keys are awaited
        self.reads: set[str] = set()  # the inputs whose content the key is waiting for
        self.must_run = False  # nothing is saved for the result
        self.is_stalled = False  # the key waits, or did, for an operation that must be run
        self.saved: Sequence[Result] | None = None
        self.started: float | None = None
        self.completed: float | None = None
        self.cached = False
        self.error = ""
        self.wanted: set[int] = set()  # the outputs that vertices and callers take


class Solver:
    """Solves graphs on the running event loop. Use as `async with Solver(...) as solver`: leaving cancels
    and awaits
    every task it started.

    `executed` lists the vertices whose operation was run, sources left out. Solvers of one event loop and one
    store that have `in_flight` in common run equal work once: who comes later waits for the other's result.
    """

    def __init__(
        self,
        cache: CacheStore,
        emit: EventSink,
        *,
        clock: Any = time.time,
        in_flight: InFlight | None = None,
    ) -> None:
        self._cache = cache
        self._in_flight = in_flight if in_flight is not None else InFlight()
        self._emit = emit
        self._clock = clock
        self._states: dict[str, _State] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_left = False
        self._running: dict[str, asyncio.Future[Sequence[Result]]] = {}  # by canonical key
        self.executed: list[Vertex] = []

    async def __aenter__(self) -> Solver:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._is_left = True
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        now = self._clock()
        for state in self._states.values():
            if state.started is not None and state.completed is None:
                self._finish(state, now, error="context canceled")

    # graph ----------------------------------------------------------------------------------------

    def __contains__(self, digest: str) -> bool:
        return digest in self._states

    def vertex(self, digest: str) -> Vertex:
        """The vertex of that digest. Raises `KeyError`."""
        return self._states[digest].vertex

    def is_solved(self, digest: str) -> bool:
        """Whether the vertex of that digest is known and has a result."""
        state = self._states.get(digest)
        return state is not None and state.result is not None and _has_value(state.result)

    def known_key(self, digest: str) -> str:
        """The canonical key of a vertex as far as it is known by now, else empty."""
        state = self._states[digest]
        return state.key.result() if state.key is not None and _has_value(state.key) else ""

    @property
    def vertices(self) -> list[Vertex]:
        """All vertices that were added, in that order."""
        return [state.vertex for state in self._states.values()]

    def add(self, vertex: Vertex) -> None:
        """Make a vertex known; one with a known digest is the same vertex and adds nothing."""
        if vertex.digest not in self._states:
            state = self._states[vertex.digest] = _State(vertex, len(self._states))
            for edge in vertex.inputs:
                self._states[edge.vertex].wanted.add(edge.index)
            for digest in {edge.vertex for edge in vertex.inputs}:
                self._states[digest].dependents.append(state)
            self._report(state)

    async def solve(self, edges: Sequence[Edge]) -> list[Result]:
        """The results of `edges`. The first failure is raised; what other callers wait for goes on until the
        solver is
        left."""
        for edge in edges:
            self._want(self._states[edge.vertex], edge.index)
        futures = [self._result(self._states[edge.vertex]) for edge in edges]
        try:
            done = await asyncio.gather(*futures)
        finally:
            for future in futures:
                if future.done() and not future.cancelled():
                    future.exception()  # seen, even where another one was raised first
        return [output_of(outputs, edge) for outputs, edge in zip(done, edges, strict=True)]

    def _want(self, state: _State, index: int) -> None:
        """Have this output in the result, although an earlier caller could do without it."""
        state.wanted.add(index)
        if state.result is not None and _has_value(state.result):
            outputs = state.result.result()
            if index < len(outputs) and outputs[index] is MISSING:
                state.result = None

    async def key(self, edge: Edge) -> str:
        """The canonical key of an edge, without evaluating more than that needs."""
        return edge_key(await self._key(self._states[edge.vertex]), edge.index)

    async def definition_key(self, digest: str) -> str:
        """The key of a vertex by its definition, which asks for no content of its inputs."""
        vertex = self._states[digest].vertex
        cache_map = await vertex.operation.cache_map()
        return derived_key(
            "definition", cache_map.definition or cache_map.digest, await self._input_keys(vertex)
        )

    def is_saved(self, key: str) -> bool:
        """Whether results are kept that `key` leads to."""
        return self._cache.has(self._cache.canonical(key) or key)

    def solved(self) -> list[Solved]:
        """All vertices whose key is known by now, in the order they were added."""
        from anyarch.solver.solved import Solved

        keys = {
            digest: state.key.result()
            for digest, state in self._states.items()
            if state.key is not None and _has_value(state.key)
        }
        found = []
        for digest, canonical in keys.items():
            state = self._states[digest]
            outputs = state.saved
            if outputs is None and state.result is not None and _has_value(state.result):
                outputs = state.result.result()
            if outputs is None and not state.is_source:
                outputs = self._cache.load(canonical)  # known, but nobody wanted it
            edges = state.vertex.inputs
            inputs = tuple(edge_key(keys[edge.vertex], edge.index) for edge in edges if edge.vertex in keys)
            others = tuple(key for key in state.known_by if key != canonical)
            found.append(Solved(state.vertex, canonical, others, inputs, outputs, state.is_source))
        return found

    # keys -----------------------------------------------------------------------------------------

    def _key(self, state: _State) -> asyncio.Future[str]:
        if state.key is None:
            state.key = self._start(self._find_key(state))
            state.key.add_done_callback(lambda _: self._key_is_known(state))
        return state.key

    async def _find_key(self, state: _State) -> str:
        vertex = state.vertex
        with error_context(vertex=vertex.digest, source=vertex.source, platform=vertex.platform):
            works = getattr(vertex.operation, "works_for_key", False) is True
            if works:
                self._begin(state)
            try:
                cache_map = await vertex.operation.cache_map()
            except Exception as error:
                self._begin(state)
                self._finish(state, self._clock(), error=str(error))
                raise
            if works:
                self._finish(state, self._clock())
        # What fails without a line of its own (the download of an ADD) was for the line of this vertex.
        with error_context(source=vertex.source, platform=vertex.platform):
            state.context = copy_context()
            self._check_stalled([state])
            input_keys = await self._input_keys(vertex)
        fast = derived_key("definition", cache_map.definition or cache_map.digest, input_keys)
        state.known_by = (fast,)
        if cache_map.is_source:
            state.is_source = True
            return fast
        if vertex.ignore_cache:
            # A key of its own, so that everything downstream is made anew too; the plain keys lead to it
            # afterwards.
            state.keys = (fast,)
            return derived_key("fresh", fast, [os.urandom(16).hex()])
        # Whether the results are whole still is asked when somebody wants them: of a chain of known steps
        # those of the last one alone.
        known = self._cache.canonical(fast) or fast
        if not self._cache.has(known) and any(cache_map.content) and not vertex.by_definition:
            return await self._content_key(state, cache_map, input_keys, fast)
        return known

    async def _input_keys(self, vertex: Vertex) -> list[str]:
        futures = [self._key(self._states[edge.vertex]) for edge in vertex.inputs]
        if len(futures) > 1:
            await asyncio.gather(*futures)
        return [
            edge_key(await future, edge.index) for future, edge in zip(futures, vertex.inputs, strict=True)
        ]

    async def _content_key(
        self, state: _State, cache_map: CacheMap, input_keys: Sequence[str], fast: str
    ) -> str:
        vertex = state.vertex

        async def part(position: int) -> str:
            content = cache_map.content[position]
            if content is None:
                return input_keys[position]
            edge = vertex.inputs[position]
            state.reads.add(edge.vertex)
            future = self._result(self._states[edge.vertex])
            self._check_stalled([state])
            outputs = await future
            try:
                with error_context(vertex=vertex.digest, source=vertex.source, platform=vertex.platform):
                    return "content:" + await content(output_of(outputs, edge))
            except Exception as error:
                if isinstance(error, PathNotFound):
                    error.of_key = True
                    error.failed_state = FailedState([outputs[edge.index]], key_input=position)
                self._begin(state)
                self._finish(state, self._clock(), error=str(error))
                raise

        parts = await asyncio.gather(*(part(n) for n in range(len(vertex.inputs))))
        slow = derived_key("content", cache_map.digest, parts)
        state.known_by = (fast, slow)
        canonical = self._cache.canonical(slow) or slow
        if self._cache.has(canonical):
            self._cache.link(fast, canonical)
        state.keys = (fast, slow) if canonical != slow else (fast,)
        return canonical

    def _load(self, state: _State, canonical: str) -> Sequence[Result] | None:
        saved = self._cache.load(canonical)
        if saved is not None and any(n >= len(saved) or saved[n] is MISSING for n in state.wanted):
            saved = None
        state.saved = saved
        if state.saved is not None:
            self._mark_cached(state)
        return state.saved

    async def _load_by_content(self, state: _State) -> Sequence[Result] | None:
        """The results of a vertex whose definition was known but has lost them: maybe the content leads to
        others."""
        vertex = state.vertex
        if len(state.known_by) != 1:
            return None  # that way was taken already
        cache_map = await vertex.operation.cache_map()
        if not any(cache_map.content):
            return None
        keys = await self._input_keys(vertex)
        canonical = await self._content_key(state, cache_map, keys, state.known_by[0])
        return self._load(state, canonical)

    # ahead of the keys ----------------------------------------------------------------------------

    def _check_stalled(self, states: Iterable[_State]) -> None:
        """Find out which of `states` have a key that waits for an operation now, and with them those that
        wait for their keys."""
        stack = list(states)
        while stack:
            state = stack.pop()
            if not state.is_stalled and self._waits(state):
                state.is_stalled = True
                self._start_ahead(state)
                stack += state.dependents

    def _key_is_known(self, state: _State) -> None:
        for dependent in state.dependents:
            if dependent.is_stalled:
                self._start_ahead(dependent)

    def _waits(self, state: _State) -> bool:
        """Whether the key of `state` waits for an operation that must be run."""
        if state.context is None or not _is_pending(state.key):
            return False
        inputs = [self._states[edge.vertex] for edge in state.vertex.inputs]
        return any(
            (one.is_stalled and _is_pending(one.key))
            or (one.must_run and one.vertex.digest in state.reads and _is_pending(one.result))
            for one in inputs
        )

    def _start_ahead(self, state: _State) -> None:
        """Start the inputs that will be wanted as soon as what the key of `state` waits for is done.

        That holds for those that were never run: a result for `state` would have been saved after theirs. One
        whose result was pruned may turn out not to be wanted, so it has to wait. Sources are left alone, as
        they never have a result. It is a guess still (of what was pruned all may be forgotten), so a failure
        is nobody's until the result is asked for.
        """
        if self._is_left or not self._waits(state):
            return
        for edge in state.vertex.inputs:
            one = self._states[edge.vertex]
            if one.result is not None or one.is_source or one.key is None or not _has_value(one.key):
                continue
            canonical = one.key.result()
            if self._cache.canonical(canonical) is None and not self._cache.has(canonical):
                one.result = self._start(self._find_result(one), context=state.context)

    # results --------------------------------------------------------------------------------------

    def _result(self, state: _State) -> asyncio.Future[Sequence[Result]]:
        if state.result is None:
            state.result = self._start(self._find_result(state))
        return state.result

    async def _find_result(self, state: _State) -> Sequence[Result]:
        canonical = await self._key(state)
        vertex = state.vertex
        if not state.is_source and not vertex.ignore_cache:
            saved = self._load(state, canonical) or await self._load_by_content(state)
            if saved is not None:
                return saved
        if not state.is_source:
            state.must_run = True
            self._check_stalled(state.dependents)
        inputs: list[Result] = []
        if vertex.inputs:
            with error_context(source=vertex.source, platform=vertex.platform):
                inputs = await self.solve(vertex.inputs)
        if state.is_source or vertex.ignore_cache:
            return await self._run(state, canonical, inputs)
        while canonical not in self._running:
            if self._in_flight.claim(canonical):
                try:
                    return await self._run(state, canonical, inputs)
                finally:
                    self._in_flight.release(canonical)
            # Another build is at it. Should it fail or be cancelled, somebody else has a go.
            await self._in_flight.wait(canonical)
        return await self._run(state, canonical, inputs)

    async def _run(self, state: _State, canonical: str, inputs: list[Result]) -> Sequence[Result]:
        """Make the result, unless another vertex with the same canonical key has made it meanwhile, here or
        in another process, or is at it."""
        vertex = state.vertex
        if not state.is_source and not vertex.ignore_cache:
            saved = self._load(state, canonical)
            if saved is not None:
                return saved
        twin = self._running.get(canonical)
        if twin is not None:
            if canonical in _enclosing.get():
                raise BuildError(f"{vertex.name} needs its own result")
            # Another vertex turned out to be the same work, and is at it.
            outputs = await twin
            for key in state.keys:
                self._cache.link(key, canonical)
            self._mark_cached(state)
            return outputs
        assert state.result is not None
        self._running[canonical] = state.result
        self._begin(state)
        try:
            with error_context(vertex=vertex.digest, source=vertex.source, platform=vertex.platform):
                began = self._clock()
                _enclosing.set(_enclosing.get() | {canonical})  # of this task and those it starts
                outputs = await vertex.operation.run(inputs)
                # No await from here on: what is done is kept, whoever cancels now.
                vertex.seconds = max(0.0, self._clock() - began)
                if not state.is_source:
                    self.executed.append(vertex)
                    self._cache.save(canonical, outputs, vertex)
                    for key in state.keys:
                        self._cache.link(key, canonical)
        except asyncio.CancelledError:
            self._finish(state, self._clock(), error="context canceled")
            raise
        except Exception as error:
            self._finish(state, self._clock(), error=str(error))
            raise
        self._finish(state, self._clock())
        return outputs

    # tasks ----------------------------------------------------------------------------------------

    def _start(
        self, work: Coroutine[Any, Any, Any], *, context: Context | None = None
    ) -> asyncio.Future[Any]:
        """Run `work` as a task of this solver; its outcome is in the future, so nobody's failure cancels
        others."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        async def body() -> None:
            try:
                value = await work
            except asyncio.CancelledError:
                future.cancel()
                raise
            except Exception as error:
                if not future.done():
                    future.set_exception(error)
                    future.exception()  # whoever waits raises it; nobody waiting is no fault
            else:
                if not future.done():
                    future.set_result(value)

        def done(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            work.close()  # a task that is cancelled before its first step never looks at it
            if not future.done():
                future.cancel()

        # A context of its own in any case: what a task sets in it is not for others.
        task = asyncio.create_task(body(), context=context.copy() if context is not None else None)
        self._tasks.add(task)
        task.add_done_callback(done)
        return future

    # progress -------------------------------------------------------------------------------------

    def _begin(self, state: _State) -> None:
        if state.started is None:
            state.started = self._clock()
            self._report(state)

    def _finish(self, state: _State, now: float, *, error: str = "") -> None:
        if state.completed is None:
            state.completed = now
            state.error = error
            self._report(state)

    def _mark_cached(self, state: _State) -> None:
        """A saved result stands for everything above it that was never started. Told in the graph's order, as
        one reads it."""
        now = self._clock()
        stack = [state]
        found = []
        while stack:
            current = stack.pop()
            if current.started is not None or current.cached:
                continue
            current.cached = True
            current.started = current.completed = now
            found.append(current)
            stack.extend(self._states[edge.vertex] for edge in current.vertex.inputs)
        for current in sorted(found, key=lambda one: one.number):
            self._report(current)

    def _report(self, state: _State) -> None:
        vertex = state.vertex
        self._emit(
            VertexEvent(
                digest=vertex.digest,
                name=vertex.name,
                inputs=tuple(edge.vertex for edge in vertex.inputs),
                started=state.started,
                completed=state.completed,
                cached=state.cached,
                error=state.error,
            )
        )


def _is_pending(future: asyncio.Future[Any] | None) -> bool:
    return future is not None and not future.done()


def _has_value(future: asyncio.Future[Any]) -> bool:
    return future.done() and not future.cancelled() and future.exception() is None


def output_of(outputs: Sequence[Result], edge: Edge) -> Result:
    """Raises `BuildError` where the vertex has no such output."""
    if not 0 <= edge.index < len(outputs):
        raise BuildError(
            f"invalid build graph: output {edge.index} of {edge.vertex} is asked for; it has {len(outputs)}"
        )
    return outputs[edge.index]


def edge_key(canonical: str, index: int) -> str:
    """The key of one output of a vertex."""
    return canonical if index == 0 else f"{canonical}#{index}"
