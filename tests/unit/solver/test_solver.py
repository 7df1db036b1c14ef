"""The solver against fakes: what runs, how often, and under which keys it is found again."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anyarch.errors import BuildError
from anyarch.solver.solver import Solver
from anyarch.solver.vertex import MISSING, CacheMap, Edge, Vertex

if TYPE_CHECKING:
    from anyarch.solver.events import VertexEvent


class Cache:
    """A cache store in memory."""

    def __init__(self) -> None:
        self.links: dict[str, str] = {}
        self.results: dict[str, Any] = {}

    def canonical(self, key: str) -> str | None:
        return self.links.get(key)

    def link(self, key: str, canonical: str) -> None:
        self.links[key] = canonical

    def has(self, canonical: str) -> bool:
        return canonical in self.results

    def load(self, canonical: str) -> Any:
        return self.results.get(canonical)

    def save(self, canonical: str, outputs: Any, vertex: Vertex) -> None:
        self.results[canonical] = outputs
        self.links[canonical] = canonical


class Op:
    """Joins its inputs' texts. With `by_content`, it uses only the upper-case letters of its inputs."""

    def __init__(
        self, name: str, runs: list[str], *, inputs: int = 0, by_content: bool = False, source: bool = False
    ) -> None:
        self.name = name
        self.runs = runs
        self.inputs = inputs
        self.by_content = by_content
        self.source = source
        self.error: Exception | None = None
        self.gate: asyncio.Event | None = None

    async def cache_map(self) -> CacheMap:
        async def content(result: str) -> str:
            return "".join(c for c in result if c.isupper())

        keys = (content if self.by_content else None,) * self.inputs
        return CacheMap(self.name, keys, is_source=self.source)

    async def run(self, inputs: Any) -> list[str]:
        self.runs.append(self.name)
        if self.gate is not None:
            await self.gate.wait()
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error
        if self.by_content:
            inputs = ["".join(c for c in text if c.isupper()) for text in inputs]
        return [self.name + "(" + ",".join(inputs) + ")"]


class Bench:
    """Builds graphs by name; a fresh solver a build, one cache for all."""

    def __init__(self) -> None:
        self.cache = Cache()
        self.runs: list[str] = []
        self.events: list[VertexEvent] = []

    async def build(
        self, graph: dict[str, tuple[Any, ...]], *wanted: str, fresh: set[str] = frozenset()
    ) -> Any:  # type: ignore[assignment]
        """`graph` maps a digest to (op, inputs…), inputs first."""
        async with Solver(self.cache, self._emit) as solver:
            for digest, (op, *inputs) in graph.items():
                solver.add(
                    Vertex(
                        digest,
                        op,
                        name=digest,
                        inputs=[Edge(i) for i in inputs],
                        ignore_cache=digest in fresh,
                    )
                )
            return await solver.solve([Edge(name) for name in wanted])

    def _emit(self, event: Any) -> None:
        self.events.append(event)

    def op(self, name: str, inputs: int = 0, **more: Any) -> Op:
        return Op(name, self.runs, inputs=inputs, **more)


def run(work: Any) -> Any:
    return asyncio.run(work)


def test_a_vertex_shared_by_two_platforms_runs_once() -> None:
    bench = Bench()
    graph = {
        "base": (bench.op("base"),),
        "shared": (bench.op("shared", 1), "base"),
        "a": (bench.op("a", 1), "shared"),
        "b": (bench.op("b", 1), "shared"),
    }
    assert run(bench.build(graph, "a", "b")) == ["a(shared(base()))", "b(shared(base()))"]
    assert sorted(bench.runs) == ["a", "b", "base", "shared"]


def test_a_second_build_runs_nothing_and_evaluates_no_input() -> None:
    bench = Bench()

    def graph() -> dict[str, Any]:
        return {"base": (bench.op("base"),), "top": (bench.op("top", 1), "base")}

    first = run(bench.build(graph(), "top"))
    bench.runs.clear()
    bench.events.clear()
    assert run(bench.build(graph(), "top")) == first
    assert bench.runs == []
    done = [event for event in bench.events if event.completed is not None]
    assert [event.digest for event in done] == ["base", "top"]  # in the order of the graph
    assert all(event.cached for event in done)


def test_a_lost_result_in_the_middle_is_made_again_only_when_needed() -> None:
    bench = Bench()

    def graph(top: str) -> dict[str, Any]:
        return {
            "base": (bench.op("base"),),
            "mid": (bench.op("mid", 1), "base"),
            top: (bench.op(top, 1), "mid"),
        }

    run(bench.build(graph("top"), "top"))
    lost = next(key for key, value in bench.cache.results.items() if value == ["mid(base())"])
    del bench.cache.results[lost]
    bench.runs.clear()
    run(bench.build(graph("top"), "top"))
    assert bench.runs == []
    run(bench.build(graph("other"), "other"))
    assert bench.runs == ["mid", "other"]


def test_a_change_that_the_operation_does_not_use_keeps_everything_below_cached() -> None:
    bench = Bench()

    def graph(source: str) -> dict[str, Any]:
        return {
            source: (bench.op(source, source=True),),
            "copy": (bench.op("copy", 1, by_content=True), source),
            "top": (bench.op("top", 1), "copy"),
        }

    run(bench.build(graph("Xa"), "top"))
    bench.runs.clear()
    run(bench.build(graph("Xb"), "top"))
    assert bench.runs == ["Xb"]  # the source is read, the copy is not made again
    run(bench.build(graph("Yb"), "top"))
    assert bench.runs == ["Xb", "Yb", "copy", "top"]


def test_two_vertices_that_turn_out_to_be_the_same_work_run_once_and_share_what_follows() -> None:
    bench = Bench()
    graph = {
        "Sa": (bench.op("Sa", source=True),),
        "Sb": (bench.op("Sb", source=True),),
        "copy-a": (bench.op("copy", 1, by_content=True), "Sa"),
        "copy-b": (bench.op("copy", 1, by_content=True), "Sb"),
        "top-a": (bench.op("top", 1), "copy-a"),
        "top-b": (bench.op("top", 1), "copy-b"),
    }
    assert run(bench.build(graph, "top-a", "top-b")) == ["top(copy(S))", "top(copy(S))"]
    assert bench.runs.count("copy") == 1
    assert bench.runs.count("top") == 1


def test_a_vertex_without_cache_runs_again_with_all_that_depends_on_it() -> None:
    bench = Bench()

    def graph() -> dict[str, Any]:
        return {
            "base": (bench.op("base"),),
            "mid": (bench.op("mid", 1), "base"),
            "top": (bench.op("top", 1), "mid"),
        }

    run(bench.build(graph(), "top"))
    bench.runs.clear()
    run(bench.build(graph(), "top", fresh={"mid"}))
    assert bench.runs == ["mid", "top"]
    bench.runs.clear()
    run(bench.build(graph(), "top"))
    assert bench.runs == []


def test_saved_outputs_stand_for_a_vertex_as_long_as_nobody_wants_those_that_are_missing() -> None:
    class Pair(Op):
        async def run(self, inputs: Any) -> list[str]:
            self.runs.append(self.name)
            return ["left", "right"]

    async def work() -> None:
        bench = Bench()
        op = Pair("pair", bench.runs)

        def solver() -> Solver:
            made = Solver(bench.cache, bench._emit)
            made.add(Vertex("pair", op, name="pair"))
            return made

        async with solver() as first:
            await first.solve([Edge("pair", 1)])
        bench.cache.results = {key: [MISSING, "right"] for key in bench.cache.results}
        async with solver() as second:
            assert await second.solve([Edge("pair", 1)]) == ["right"]
            assert bench.runs == ["pair"]
            assert await second.solve([Edge("pair", 0)]) == ["left"]
        assert bench.runs == ["pair", "pair"]

    run(work())


def test_a_failure_is_raised_with_the_vertex_and_finished_work_stays() -> None:
    bench = Bench()
    bad = bench.op("bad", 1)
    bad.error = BuildError("broken")
    graph = {"base": (bench.op("base"),), "good": (bench.op("good", 1), "base"), "bad": (bad, "good")}
    with pytest.raises(BuildError, match="broken") as caught:
        run(bench.build(graph, "bad"))
    assert caught.value.vertex == "bad"
    assert ["good(base())"] in bench.cache.results.values()
    assert [event.error for event in bench.events if event.digest == "bad"][-1] == "broken"


def test_leaving_the_solver_ends_what_still_runs() -> None:
    async def build() -> None:
        bench = Bench()
        slow, bad = bench.op("slow"), bench.op("bad")
        slow.gate = asyncio.Event()
        bad.error = BuildError("broken")
        with pytest.raises(BuildError):
            await bench.build({"slow": (slow,), "bad": (bad,)}, "slow", "bad")
        assert [event.error for event in bench.events if event.digest == "slow"][-1] == "context canceled"
        assert len(asyncio.all_tasks()) == 1

    run(build())


@st.composite
def graphs(draw: Any) -> list[tuple[int, ...]]:
    size = draw(st.integers(1, 12))
    return [
        tuple(draw(st.lists(st.integers(0, n - 1), max_size=3, unique=True))) if n else ()
        for n in range(size)
    ]


@settings(max_examples=150, deadline=None)
@given(graphs(), st.sets(st.integers(0, 11)), st.sets(st.integers(0, 11)))
def test_any_graph_gives_what_a_naive_evaluation_gives_and_runs_each_vertex_at_most_once(
    shape: list[tuple[int, ...]], content: set[int], failing: set[int]
) -> None:
    def naive(n: int) -> str:
        inputs = [naive(i) for i in shape[n]]
        if n in content:
            inputs = ["".join(c for c in text if c.isupper()) for text in inputs]
        return f"V{n}(" + ",".join(inputs) + ")"

    def depends(n: int) -> set[int]:
        return {n}.union(*(depends(i) for i in shape[n]))

    async def build() -> None:
        bench = Bench()
        graph: dict[str, Any] = {}
        for n, inputs in enumerate(shape):
            op = bench.op(f"V{n}", len(inputs), by_content=n in content)
            op.error = BuildError("broken") if n in failing else None
            graph[str(n)] = (op, *map(str, inputs))
        last = len(shape) - 1
        if depends(last) & failing:
            with pytest.raises(BuildError, match="broken"):
                await bench.build(graph, str(last))
        else:
            assert await bench.build(graph, str(last)) == [naive(last)]
        assert len(bench.runs) == len(set(bench.runs))
        assert len(asyncio.all_tasks()) == 1

    run(build())
