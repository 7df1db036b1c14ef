"""How the steps of a build run on this machine: natively, cross-compiling, or emulated."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from anyarch.engine.places import ONLY_STAGE, place_of
from anyarch.errors import BuildError, SandboxError, error_context
from anyarch.solver.events import WarningEvent
from anyarch.worker.ops.exec import ExecOperation

if TYPE_CHECKING:
    from collections.abc import Iterable

    from anyarch.engine.request import PlatformResult
    from anyarch.frontend.gateway import FrontendResult
    from anyarch.solver.vertex import Vertex
    from anyarch.worker.worker import Worker

__all__ = [
    "check_routes",
    "emulated_seconds",
    "is_emulated",
    "platforms_of",
    "refuse_emulation",
    "with_routes",
]

_MOST_NAMED = 5


def check_routes(vertices: Iterable[Vertex], worker: Worker) -> None:
    """A step that nothing on this machine can run is an error before any work starts; what had to be changed
    on the machine is told."""
    told: set[str] = set()
    for vertex in vertices:
        operation = vertex.operation
        if isinstance(operation, ExecOperation):
            with error_context(source=vertex.source, platform=str(operation.platform), vertex=vertex.digest):
                if operation.platform == worker.platform:
                    continue
                note = worker.ready_route(operation.platform).note
                if note and note not in told:
                    told.add(note)
                    worker.emit(WarningEvent(vertex.digest, note))


def is_emulated(vertex: Vertex, worker: Worker) -> bool:
    """Whether the step is a program that runs here under an emulator, or would if there were one."""
    operation = vertex.operation
    if not isinstance(operation, ExecOperation) or operation.platform == worker.platform:
        return False
    try:
        return worker.route(operation.platform).kind != "native"
    except SandboxError:
        return True


def refuse_emulation(vertices: Iterable[Vertex], worker: Worker) -> None:
    """`--no-emulation`, whatever the cache holds: raise `BuildError` at the first step that needs an
    emulator; it names the others too."""
    found = [vertex for vertex in vertices if is_emulated(vertex, worker)]
    if not found:
        return
    first = found[0]
    place = place_of(first.name)
    stage = f" of stage {place.stage}" if place.stage not in ("", ONLY_STAGE) else ""
    message = f"{_short(place.text)}{stage} runs {first.platform} and would be emulated on {worker.platform}"
    others = dict.fromkeys(_told(vertex) for vertex in found[1:])
    others.pop(_told(first), None)
    if others:
        named = list(others)[:_MOST_NAMED]
        more = f" and {len(others) - len(named)} more" if len(others) > len(named) else ""
        message += f"; so would {', '.join(named)}{more}"
    error = BuildError(
        message,
        hint="build the stage with FROM --platform=$BUILDPLATFORM and cross-compile for $TARGETARCH, build "
        f"{first.platform} on a native node, or leave out --no-emulation",
    )
    error.source, error.platform, error.vertex = first.source, first.platform, first.digest
    raise error


def _short(text: str) -> str:
    first = text.splitlines()[0] if text else ""
    return first if len(first) <= 60 else first[:57] + "..."


def _told(vertex: Vertex) -> str:
    source = vertex.source
    line = f"line {source.start}" if source is not None else _short(vertex.name)
    return f"{line} for {vertex.platform}"


def platforms_of(frontend: FrontendResult) -> dict[str, list[str]]:
    """By vertex digest, the platforms whose result it is a part of."""
    found: dict[str, list[str]] = {}
    for name, _ in frontend.platforms:
        definition = frontend.refs.get(name)
        for digest in definition.digests if definition is not None else ():
            found.setdefault(digest, []).append(name)
    return found


def emulated_seconds(executed: Iterable[Vertex], worker: Worker) -> float:
    """The time that the steps which were executed spent under an emulator, added up."""
    return sum(vertex.seconds for vertex in executed if is_emulated(vertex, worker))


def with_routes(
    results: Iterable[PlatformResult], frontend: FrontendResult, vertices: Iterable[Vertex], worker: Worker
) -> tuple[PlatformResult, ...]:
    """`results` with the route of each: emulated if one of its steps is, native if any step runs."""
    routes: dict[str, str] = {}
    platforms = platforms_of(frontend)
    for vertex in vertices:
        if not isinstance(vertex.operation, ExecOperation):
            continue
        route = "emulated" if is_emulated(vertex, worker) else "native"
        for name in platforms.get(vertex.digest, ()):
            if routes.get(name) != "emulated":
                routes[name] = route
    return tuple(
        msgspec.structs.replace(result, route=routes.get(name, ""))
        for result, (name, _) in zip(results, frontend.platforms, strict=True)
    )
