"""`anyarch build --plan`: what a build would do for each stage and platform, without doing it.

The Dockerfile is read and base images are looked up as for a build; no step is run, nothing is written and no
layer is fetched. A COPY of files that only a fetched layer could tell about counts as to be done.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec

from anyarch.engine.placement import platforms_of
from anyarch.engine.places import place_of
from anyarch.errors import SandboxError
from anyarch.solver.peek import Peek
from anyarch.spec.platform import compatible
from anyarch.worker.graph import load
from anyarch.worker.ops.exec import ExecOperation
from anyarch.worker.result import SnapshotResult

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from anyarch.engine.cache import StoredCache
    from anyarch.engine.request import BuildRequest, CancelToken
    from anyarch.engine.solve import Prepared
    from anyarch.solver.events import EventSink
    from anyarch.solver.vertex import Result, Vertex
    from anyarch.spec.platform import Platform
    from anyarch.worker.worker import Worker

__all__ = ["PlanRow", "plan_build", "plan_elsewhere"]


class PlanRow(msgspec.Struct, frozen=True, rename="camel"):
    """One stage for the target platforms that share it.

    `how` is cached (nothing is left to do), native, cross (natively, for another platform), emulated, files
    (only COPY and the like are left), or impossible; then `problem` says why. `runs_on` is the platform of
    the stage's programs, `emulator` what runs them. `steps` are all of its steps, `cached` those that the
    cache has (None: nobody can tell). `seconds` is what the steps that are left took when they last ran; None
    when none of them is known, and `unknown` is how many are not. `node` is the node that builds it, empty
    for this machine. `names` are those of the steps that run programs, as a build's progress tells them.
    """

    stage: str
    targets: tuple[str, ...]
    runs_on: str
    how: str
    emulator: str
    steps: int
    cached: int | None
    seconds: float | None
    unknown: int
    problem: str = ""
    node: str = ""
    names: tuple[str, ...] = ()


def plan_build(
    request: BuildRequest, on_event: EventSink | None = None, cancel: CancelToken | None = None
) -> list[PlanRow]:
    """The plan, in the order of the Dockerfile. Raises as a build does, up to its first step."""
    from anyarch.engine.running import run_async
    from anyarch.engine.solve import prepared

    async def work(emit: EventSink) -> list[PlanRow]:
        async with prepared(request, emit) as found:
            return await _plan(found)

    return asyncio.run(run_async(work, on_event, cancel))


async def plan_elsewhere(
    request: BuildRequest, able: Sequence[Platform], on_event: EventSink
) -> list[PlanRow]:
    """The plan of a machine that runs the platforms `able`, the first natively; what it has in its cache, and
    how long things took there, is not known here. Raises as `plan_build`."""
    from anyarch.engine.solve import prepared

    async with prepared(request, on_event, build_platform=able[0]) as found:
        groups: _Groups = {}
        for key, vertex in _steps(found, able[0]):
            groups.setdefault(key, []).append((vertex, False))
        return [_row_elsewhere(key, steps, able) for key, steps in _merged(groups).items()]


def _row_elsewhere(key: _Key, steps: list[tuple[Vertex, bool]], able: Sequence[Platform]) -> PlanRow:
    stage, runs_on, targets = key
    programs = [vertex for vertex, _ in steps if isinstance(vertex.operation, ExecOperation)]
    how, problem = "files", ""
    if programs:
        operation = programs[0].operation
        assert isinstance(operation, ExecOperation)
        platform = operation.platform
        if any(platform.architecture == one.architecture for one in compatible(able[0])):
            how = "cross" if any(target != str(platform) for target in targets) else "native"
        elif any(platform in compatible(one) for one in able):
            how = "emulated"
        else:
            how, problem = "impossible", f"the node runs {', '.join(map(str, able))} only"
    names = tuple(vertex.name for vertex in programs)
    return PlanRow(
        stage, targets, runs_on, how, "", len(steps), None, None, len(programs), problem, names=names
    )


def _steps(found: Prepared, native: Platform) -> Iterator[tuple[_Key, Vertex]]:
    """The steps of the stages, each with the row that it belongs to."""
    for name, _ in found.frontend.platforms:
        definition = found.frontend.refs.get(name)
        if definition is not None:
            load(found.solver, found.worker, definition)
    vertices = {vertex.digest: vertex for vertex in found.solver.vertices}
    for digest, names in platforms_of(found.frontend).items():
        vertex = vertices.get(digest)
        place = place_of(vertex.name) if vertex is not None else None
        if vertex is not None and place is not None and place.stage and vertex.inputs:
            yield (place.stage, vertex.platform or str(native), tuple(names)), vertex


async def _plan(found: Prepared) -> list[PlanRow]:
    solver, worker, cache = found.solver, found.worker, found.cache
    steps = list(_steps(found, worker.platform))
    vertices = {vertex.digest: vertex for vertex in solver.vertices}

    def may_read(result: Result) -> bool:
        if not isinstance(result, SnapshotResult):
            return True
        return not worker.layers.missing([worker.layers.get(layer) for layer in result.layers])

    peek = Peek(vertices, cache, may_run=_is_local, may_read=may_read)
    groups: _Groups = {}
    for key, vertex in steps:
        groups.setdefault(key, []).append((vertex, await peek.is_cached(vertex.digest)))
    return [_row(key, steps, worker, cache) for key, steps in _merged(groups).items()]


def _is_local(vertex: Vertex) -> bool:
    """Whether a source is at hand: a directory of this machine."""
    return getattr(vertex.operation, "is_local", False) is True


_Key = tuple[str, str, tuple[str, ...]]
_Groups = dict[_Key, list[tuple["Vertex", bool]]]


def _merged(groups: _Groups) -> _Groups:
    """Stages in the order in which they are first seen, each with its platforms together."""
    order: dict[str, None] = {}
    for stage, _, _ in groups:
        order.setdefault(stage)
    position = {stage: number for number, stage in enumerate(order)}
    return dict(sorted(groups.items(), key=lambda item: position[item[0][0]]))


def _row(
    key: _Key,
    steps: list[tuple[Vertex, bool]],
    worker: Worker,
    cache: StoredCache,
) -> PlanRow:
    stage, runs_on, targets = key
    left = [vertex for vertex, is_cached in steps if not is_cached]
    how, emulator, problem = _how(steps, left, targets, worker)
    seconds = [cache.last_seconds(vertex) for vertex in left]
    known = [value for value in seconds if value is not None]
    # Only programs take time worth telling.
    unknown = sum(
        value is None and isinstance(vertex.operation, ExecOperation)
        for vertex, value in zip(left, seconds, strict=True)
    )
    total = sum(known) if known or not unknown else None
    return PlanRow(
        stage, targets, runs_on, how, emulator, len(steps), len(steps) - len(left), total, unknown, problem
    )


def _how(
    steps: Iterable[tuple[Vertex, bool]], left: list[Vertex], targets: tuple[str, ...], worker: Worker
) -> tuple[str, str, str]:
    """How what is left is done, by what emulator the stage's programs run, and what forbids it."""
    operations = [v.operation for v, _ in steps if isinstance(v.operation, ExecOperation)]
    if not operations:
        return ("files" if left else "cached"), "", ""
    platform = operations[0].platform
    try:
        route = worker.route(platform)
    except SandboxError as error:
        return "impossible", "", error.message + (f"; {error.hint}" if error.hint else "")
    if not left:
        return "cached", route.cache_identity, ""
    if not any(isinstance(vertex.operation, ExecOperation) for vertex in left):
        return "files", route.cache_identity, ""
    if route.kind != "native":
        return "emulated", route.cache_identity, ""
    return ("cross" if any(target != str(platform) for target in targets) else "native"), "", ""
