"""Random graphs, delays, failures, cancellations and losses: whatever the schedule, a build gives what a
plain evaluation gives, runs nothing twice, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from anyarch.errors import BuildError
from anyarch.solver.inflight import InFlight
from anyarch.solver.solver import Solver
from anyarch.solver.vertex import CacheMap, Edge, Vertex
from tests.unit.solver.test_solver import Cache


def used(text: str) -> str:
    """What an operation by content uses of an input."""
    return "".join(char for char in text if char.isupper() or char in "(),")


class Node:
    """One vertex of a random graph. `by_content` tells for each input whether only `used` of it counts."""

    def __init__(
        self, name: str, inputs: tuple[tuple[int, int], ...], by_content: tuple[bool, ...], outputs: int
    ) -> None:
        self.name = name
        self.inputs = inputs
        self.by_content = by_content
        self.outputs = outputs

    def result(self, inputs: list[str]) -> list[str]:
        seen = [used(text) if part else text for text, part in zip(inputs, self.by_content, strict=True)]
        return [f"{self.name}{number or ''}({','.join(seen)})" for number in range(self.outputs)]


class Shape:
    """A graph: nodes in topological order, and which edges are wanted."""

    def __init__(self, nodes: list[Node], wanted: list[tuple[int, int]]) -> None:
        self.nodes = nodes
        self.wanted = wanted

    def naive(self) -> list[list[str]]:
        """The outputs of all nodes, evaluated one after the other."""
        done: list[list[str]] = []
        for node in self.nodes:
            done.append(node.result([done[n][index] for n, index in node.inputs]))
        return done

    def keys(self) -> list[object]:
        """What must be equal for two vertices to be the same work."""
        truth = self.naive()
        found: list[object] = []
        for node in self.nodes:
            parts = [
                ("content", used(truth[n][index])) if part else (found[n], index)
                for (n, index), part in zip(node.inputs, node.by_content, strict=True)
            ]
            found.append((node.name, node.outputs, node.by_content, tuple(parts)))
        return found

    def below(self, numbers: list[int]) -> set[int]:
        found: set[int] = set()
        todo = list(numbers)
        while todo:
            number = todo.pop()
            if number not in found:
                found.add(number)
                todo += [n for n, _ in self.nodes[number].inputs]
        return found


@st.composite
def shapes(draw: Any) -> Shape:
    nodes: list[Node] = []
    for n in range(draw(st.integers(1, 10))):
        inputs = tuple(
            (i, draw(st.integers(0, nodes[i].outputs - 1)))
            for i in (draw(st.lists(st.integers(0, n - 1), max_size=3)) if n else [])
        )
        by_content = tuple(draw(st.booleans()) for _ in inputs)
        # Few names: different vertices may turn out to be the same work. The lower-case part of a name is
        # what those by content do not see.
        name = draw(st.sampled_from("ABC")) + draw(st.sampled_from(["", "x", "y"]))
        nodes.append(Node(name, inputs, by_content, draw(st.integers(1, 2))))
    wanted = draw(st.lists(st.integers(0, len(nodes) - 1), min_size=1, max_size=4))
    return Shape(nodes, [(n, draw(st.integers(0, nodes[n].outputs - 1))) for n in wanted])


class Run:
    """The operation of one vertex in one build."""

    def __init__(self, build: Build, number: int) -> None:
        self.build = build
        self.number = number
        self.node = build.shape.nodes[number]

    async def cache_map(self) -> CacheMap:
        await self.build.pause()

        async def content(result: str) -> str:
            await self.build.pause()
            return used(result)

        node = self.node
        # Of equal operations with unequal outputs neither may take the other's.
        digest = f"{node.name}/{node.outputs}/{node.by_content}"
        return CacheMap(digest, tuple(content if part else None for part in node.by_content))

    async def run(self, inputs: Any) -> list[str]:
        self.build.started.append(self.number)
        await self.build.pause()
        if self.number in self.build.failing:
            raise BuildError(f"broken {self.number}")
        self.build.finished.append(self.build.keys[self.number])
        return self.node.result(list(inputs))


class Build:
    def __init__(
        self, shape: Shape, cache: Cache, chance: random.Random, *, failing: set[int], fresh: set[int]
    ) -> None:
        self.shape = shape
        self.cache = cache
        self.chance = chance
        self.failing = failing
        self.fresh = fresh
        self.started: list[int] = []
        self.keys = shape.keys()
        self.finished: list[object] = []
        self.events: list[Any] = []

    async def pause(self) -> None:
        for _ in range(self.chance.randrange(4)):
            await asyncio.sleep(0)

    async def result(self, in_flight: InFlight | None = None) -> list[str]:
        async with Solver(self.cache, self.events.append, in_flight=in_flight) as solver:
            for number, node in enumerate(self.shape.nodes):
                solver.add(
                    Vertex(
                        str(number),
                        Run(self, number),
                        name=node.name,
                        inputs=[Edge(str(i), index) for i, index in node.inputs],
                        ignore_cache=number in self.fresh,
                    )
                )
            return await solver.solve([Edge(str(n), index) for n, index in self.shape.wanted])

    def check_events(self) -> None:
        """Whatever began has ended."""
        last = {event.digest: event for event in self.events}
        assert all((event.started is None) == (event.completed is None) for event in last.values())


def nothing_runs() -> bool:
    return len(asyncio.all_tasks()) == 1


numbers = st.sets(st.integers(0, 9), max_size=3)


@settings(max_examples=100, deadline=None)
@given(
    shapes(), st.lists(st.tuples(numbers, numbers, st.integers(0, 60)), max_size=4), st.integers(0, 1 << 30)
)
def test_builds_one_after_the_other(
    shape: Shape, builds: list[tuple[set[int], set[int], int]], seed: int
) -> None:
    """Each may fail, be cancelled after some steps of the loop, or ignore the cache for some vertices, and
    results get lost in between. A last one, left alone, is right, and one more runs nothing."""
    chance = random.Random(seed)
    cache = Cache()
    truth = shape.naive()
    expected = [truth[n][index] for n, index in shape.wanted]
    needed = shape.below([n for n, _ in shape.wanted])

    async def one(build: Build, steps: int) -> None:
        task = asyncio.create_task(build.result())
        for _ in range(steps):
            await asyncio.sleep(0)
        if steps % 2:
            task.cancel()
        try:
            assert await task == expected
        except BuildError:
            assert build.failing & needed
        except asyncio.CancelledError:
            assert steps % 2
        assert len(build.started) == len(set(build.started))
        assert set(build.started) <= needed
        assert nothing_runs()
        build.check_events()

    async def everything() -> None:
        for failing, fresh, steps in builds:
            await one(Build(shape, cache, chance, failing=failing, fresh=fresh), steps)
            for key in list(cache.results):
                if chance.random() < 0.2:
                    del cache.results[key]
        for _ in range(2):
            last = Build(shape, cache, chance, failing=set(), fresh=set())
            assert await last.result() == expected
        assert last.started == []

    asyncio.run(everything())


@settings(max_examples=100, deadline=None)
@given(
    st.lists(shapes(), min_size=1, max_size=2),
    st.lists(st.tuples(st.integers(0, 1), numbers, st.integers(0, 60)), min_size=2, max_size=4),
    st.integers(0, 1 << 30),
)
def test_builds_at_the_same_time(
    shapes: list[Shape], builds: list[tuple[int, set[int], int]], seed: int
) -> None:
    """Builds of equal and of different graphs that share what they run: those that are neither cancelled nor
    broken are right, and equal work runs once unless the one who was at it did not finish it."""
    chance = random.Random(seed)
    cache = Cache()
    in_flight = InFlight()

    async def one(shape: Shape, failing: set[int], steps: int) -> Build:
        build = Build(shape, cache, chance, failing=failing, fresh=set())
        truth = shape.naive()
        for _ in range(chance.randrange(20)):
            await asyncio.sleep(0)
        task = asyncio.create_task(build.result(in_flight))
        if steps % 3 == 0:
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
        try:
            assert await task == [truth[n][index] for n, index in shape.wanted]
        except BuildError:
            assert failing & shape.below([n for n, _ in shape.wanted])
        except asyncio.CancelledError:
            assert steps % 3 == 0
        build.check_events()
        return build

    async def everything() -> None:
        wanted = [(shapes[which % len(shapes)], failing, steps) for which, failing, steps in builds]
        done = await asyncio.gather(*(one(*item) for item in wanted))
        assert nothing_runs()
        assert in_flight.is_idle
        finished = [work for build in done for work in build.finished]
        assert len(finished) == len(set(finished))

    asyncio.run(everything())


def test_a_build_goes_on_with_what_a_cancelled_one_was_at() -> None:
    shape = Shape([Node("A", (), (), 1), Node("B", ((0, 0),), (False,), 1)], [(1, 0)])

    async def everything() -> None:
        cache, in_flight = Cache(), InFlight()
        builds = [Build(shape, cache, random.Random(seed), failing=set(), fresh=set()) for seed in (1, 2)]
        gate = asyncio.Event()
        pause = builds[0].pause

        async def blocked() -> None:
            await pause()
            if builds[0].started:
                await gate.wait()

        builds[0].pause = blocked  # type: ignore[method-assign]
        first = asyncio.create_task(builds[0].result(in_flight))
        for _ in range(50):
            await asyncio.sleep(0)
        assert builds[0].started == [0]
        second = asyncio.create_task(builds[1].result(in_flight))
        for _ in range(50):
            await asyncio.sleep(0)
        assert builds[1].started == []  # it waits for the first
        first.cancel()
        assert await second == ["B(A())"]
        assert builds[1].started == [0, 1]

    asyncio.run(everything())
