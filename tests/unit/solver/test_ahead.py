"""What is started before its turn: the other inputs of a vertex whose key waits for an operation."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from anyarch.errors import BuildError
from anyarch.solver.solver import Solver
from anyarch.solver.vertex import CacheMap, Edge, Vertex
from tests.unit.solver.test_solver import Cache

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence

    from anyarch.solver.events import VertexEvent


class Step:
    """Joins its inputs' texts. Of those at `by_content` it sees the upper-case letters only."""

    def __init__(self, bench: Bench, name: str, by_content: Sequence[int], count: int) -> None:
        self.bench = bench
        self.name = name
        self.by_content = by_content
        self.count = count

    async def cache_map(self) -> CacheMap:
        async def content(result: str) -> str:
            return _upper(result)

        return CacheMap(
            self.name,
            tuple(content if n in self.by_content else None for n in range(self.count)),
            is_source=self.name.startswith("source"),
        )

    async def run(self, inputs: Sequence[str]) -> list[str]:
        self.bench.runs.append(self.name)
        wait = self.bench.waits.get(self.name)
        self.bench.began(self.name).set()
        if wait is not None:
            await wait.wait()
        if self.name in self.bench.broken:
            raise BuildError(f"broken {self.name}")
        seen = [_upper(text) if n in self.by_content else text for n, text in enumerate(inputs)]
        return [f"{self.name}({','.join(seen)})"]


def _upper(text: str) -> str:
    return "".join(char for char in text if char.isupper())


class Bench:
    """Builds with one cache; `waits` are the events that steps wait for, `began` those they set."""

    def __init__(self) -> None:
        self.cache = Cache()
        self.runs: list[str] = []
        self.waits: dict[str, asyncio.Event] = {}
        self.broken: set[str] = set()
        self.events: list[VertexEvent] = []
        self._began: dict[str, asyncio.Event] = {}

    def began(self, name: str) -> asyncio.Event:
        return self._began.setdefault(name, asyncio.Event())

    def wait_for_one_another(self, *names: str) -> None:
        """Each of two steps ends when the other has begun."""
        one, other = names
        self.waits = {one: self.began(other), other: self.began(one)}

    def prune(self, *texts: str) -> None:
        """Lose these results."""
        kept = {key: value for key, value in self.cache.results.items() if value[0] not in texts}
        self.cache.results = kept

    def forget_pruned(self) -> None:
        """Lose all that is known of results that were lost."""
        links = self.cache.links
        self.cache.links = {key: value for key, value in links.items() if value in self.cache.results}

    async def build(self, graph: dict[str, tuple[str, ...]], *wanted: str) -> list[Any]:
        """`graph` maps names to inputs, those that are known by content with an asterisk."""
        self.runs.clear()
        async with Solver(self.cache, lambda event: self.events.append(event)) as solver:  # type: ignore[arg-type]
            for name, inputs in graph.items():
                by_content = [n for n, text in enumerate(inputs) if text.endswith("*")]
                solver.add(
                    Vertex(
                        name,
                        Step(self, name, by_content, len(inputs)),
                        name=name,
                        inputs=[Edge(text.rstrip("*")) for text in inputs],
                    )
                )
            return await solver.solve([Edge(name) for name in wanted])


def run(work: Coroutine[Any, Any, None]) -> None:
    # The limit is for a test that hangs: none waits for a clock.
    asyncio.run(asyncio.wait_for(work, 20))


STAGES = {
    "source": (),
    "A": ("source",),
    "B": ("source",),
    "C": ("source",),
    "copy-1": ("source", "A*"),
    "copy-2": ("copy-1", "B*"),
    "copy-3": ("copy-2", "C*"),
    "top": ("copy-3",),
}


@pytest.mark.parametrize("pair", [("A", "B"), ("A", "C"), ("B", "C")])
def test_stages_that_one_stage_copies_from_run_at_the_same_time(pair: tuple[str, str]) -> None:
    async def work() -> None:
        bench = Bench()
        bench.wait_for_one_another(*pair)
        (result,) = await bench.build(STAGES, "top")
        assert result == "top(copy-3(copy-2(copy-1(source(),A),B),C))"
        assert sorted(bench.runs) == sorted(STAGES)
        assert len(asyncio.all_tasks()) == 2  # this one and the limit's

    run(work())


def test_a_stage_runs_at_the_same_time_as_the_steps_before_the_copy_from_it() -> None:
    async def work() -> None:
        bench = Bench()
        bench.wait_for_one_another("A", "own")
        graph = {"source": (), "A": ("source",), "own": ("source",), "copy": ("own", "A*")}
        assert await bench.build(graph, "copy") == ["copy(own(source()),A)"]

    run(work())


def test_stages_further_up_run_at_the_same_time_too() -> None:
    """The second copy is from a stage of three steps; the first of them waits for the other stage."""

    async def work() -> None:
        bench = Bench()
        bench.wait_for_one_another("A", "D")
        graph = {
            "source": (),
            "A": ("source",),
            "copy-1": ("source", "A*"),
            "D": ("source",),
            "E": ("D",),
            "B": ("E",),
            "copy-2": ("copy-1", "B*"),
        }
        assert await bench.build(graph, "copy-2") == ["copy-2(copy-1(source(),A),BED)"]

    run(work())


def test_nothing_is_evaluated_when_the_last_step_is_known() -> None:
    async def work() -> None:
        bench = Bench()
        first = await bench.build(STAGES, "top")
        assert await bench.build(STAGES, "top") == first
        assert bench.runs == []
        bench.prune("A(source())", "B(source())", "C(source())")
        assert await bench.build(STAGES, "top") == first
        assert bench.runs == []

    run(work())


def test_a_stage_with_a_saved_result_is_not_evaluated_while_another_runs() -> None:
    """A changes in what nobody copies: it alone runs again."""

    async def work() -> None:
        bench = Bench()
        first = await bench.build(STAGES, "top")
        loaded: list[object] = []
        load = bench.cache.load
        bench.cache.load = lambda key: loaded.append(load(key)) or loaded[-1]  # type: ignore
        changed = dict(STAGES, **{"copy-1": ("source", "Anew*")})
        changed = {"source": (), "Anew": ("source",), **changed}
        assert await bench.build(changed, "top") == first
        assert bench.runs == ["source", "Anew"]
        assert [found for found in loaded if found is not None] == [first]

    run(work())


def test_a_failure_is_raised_and_ends_what_was_started_ahead() -> None:
    async def work() -> None:
        bench = Bench()
        bench.waits = {"A": bench.began("B"), "B": asyncio.Event()}
        bench.broken = {"A"}
        with pytest.raises(BuildError, match="broken A"):
            await bench.build(STAGES, "top")
        last = {event.digest: event for event in bench.events}
        assert last["B"].error == "context canceled"
        assert all((event.started is None) == (event.completed is None) for event in last.values())
        assert len(asyncio.all_tasks()) == 2  # this one and the limit's

    run(work())


def test_a_failure_ahead_is_raised_when_its_turn_comes() -> None:
    async def work() -> None:
        bench = Bench()
        bench.waits = {"A": asyncio.Event()}
        bench.broken = {"B"}
        task = asyncio.create_task(bench.build(STAGES, "top"))
        await bench.began("B").wait()
        for _ in range(20):
            await asyncio.sleep(0)
        assert not task.done()
        bench.waits["A"].set()
        with pytest.raises(BuildError, match="broken B"):
            await task
        assert ["A(source())"] in bench.cache.results.values()

    run(work())


def test_what_was_pruned_is_not_started_ahead() -> None:
    """The copies are known by their content, so nobody needs the stages again."""

    async def work() -> None:
        bench = Bench()
        first = await bench.build(STAGES, "top")
        bench.prune("A(source())", "B(source())", "C(source())")
        changed = {"source": (), "Anew": ("source",), **STAGES, "copy-1": ("source", "Anew*")}
        assert await bench.build(changed, "top") == first
        assert [name for name in bench.runs if name != "source"] == ["Anew"]

    run(work())


def test_a_failure_ahead_is_nobodys_when_the_result_is_not_needed() -> None:
    """The copies are known, the results of the stages were pruned and forgotten."""

    async def work() -> None:
        bench = Bench()
        first = await bench.build(STAGES, "top")
        bench.prune("A(source())", "B(source())", "C(source())")
        bench.forget_pruned()
        bench.broken = {"B"}
        bench.waits = {"Anew": bench.began("B")}
        changed = {"source": (), "Anew": ("source",), **STAGES, "copy-1": ("source", "Anew*")}
        assert await bench.build(changed, "top") == first

    run(work())


def test_cancelling_the_build_ends_what_was_started_ahead() -> None:
    async def work() -> None:
        bench = Bench()
        bench.waits = {name: asyncio.Event() for name in "ABC"}
        task = asyncio.create_task(bench.build(STAGES, "top"))
        for name in "ABC":
            await bench.began(name).wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        last = {event.digest: event for event in bench.events}
        assert {last[name].error for name in "ABC"} == {"context canceled"}
        assert len(asyncio.all_tasks()) == 2  # this one and the limit's

    run(work())


def test_a_graph_beyond_the_copies_is_not_started_ahead() -> None:
    """Only what the waiting vertex has as an input: what another platform wants comes in its own time, and
    what nobody wants not at all."""

    async def work() -> None:
        bench = Bench()
        more = {"unused": ("source",), "unused-copy": ("source", "A*"), "X": ("unused-copy", "unused*")}
        graph = {**STAGES, **more}
        await bench.build(graph, "top")
        assert not {"unused", "unused-copy", "X"} & set(bench.runs)

    run(work())
