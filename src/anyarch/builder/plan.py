"""`anyarch build --plan` for a builder of nodes: what each node would do, without asking it to do anything.

The Dockerfile is converted here, for each node with the node's own platform as that which builds. Nodes tell
neither what they have in their caches nor what they would run; how long a step took last time is looked up in
their records, by the step's name.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec

from anyarch.builder.builder import load_node
from anyarch.builder.history import follow_record, list_records
from anyarch.builder.merge import part_request
from anyarch.builder.placement import Candidate, group, place
from anyarch.engine.plan import plan_elsewhere
from anyarch.engine.programs import runs_programs
from anyarch.errors import AnyarchError, BuilderError, NotSupported
from anyarch.solver.events import VertexEvent, WarningEvent
from anyarch.spec.digest import Digest
from anyarch.spec.platform import Platform

if TYPE_CHECKING:
    from collections.abc import Iterable

    from anyarch.builder.builder import Builder, Node
    from anyarch.engine.plan import PlanRow
    from anyarch.engine.request import BuildRequest, CancelToken
    from anyarch.solver.events import Event, EventSink

__all__ = ["plan_on"]

_LOAD_TIMEOUT_S = 20.0
_RECORDS = 10
"""So many of a node's newest records are read for the times of steps."""


def plan_on(
    builder: Builder, request: BuildRequest, on_event: EventSink, cancel: CancelToken | None = None
) -> list[PlanRow]:
    """The plan, node by node. Nodes that do not run are not started, and said. Raises `AnyarchError`."""
    from anyarch.engine.running import run_async

    return asyncio.run(run_async(lambda emit: _plan(builder, request, emit), on_event, cancel))


async def _plan(builder: Builder, request: BuildRequest, emit: EventSink) -> list[PlanRow]:
    nodes = await _nodes(builder, request, emit)
    wanted = [Platform.parse(text) for text in request.platforms]
    if wanted:
        must_run = await asyncio.to_thread(runs_programs, request)
        groups = group(place(wanted, [Candidate.of(node) for node in nodes], must_run=must_run))
    else:
        groups = {0: []}
    if len(groups) > 1 and request.context_tar is not None:
        raise NotSupported(
            "--plan reads an archive on standard input once, and several nodes would build it",
            hint="unpack it, or choose one --platform",
        )
    rows = []
    for number, platforms in groups.items():
        node = nodes[number]
        asked = part_request(request, platforms, "") if len(groups) > 1 else request
        asked = msgspec.structs.replace(asked, outputs=(), cache_from=(), cache_to=())
        found = await plan_elsewhere(asked, node.detected or node.fixed, emit)
        seconds = await _last_seconds(builder, node, {name for row in found for name in row.names})
        rows += [_told(row, node.name, seconds) for row in found]
    return rows


async def _nodes(builder: Builder, request: BuildRequest, emit: EventSink) -> list[Node]:
    """Those that run."""
    builder.open(context_path=request.context)
    await asyncio.gather(*(load_node(node, _LOAD_TIMEOUT_S) for node in builder.nodes))
    running = []
    for node in builder.nodes:
        if node.is_running and (node.detected or node.fixed):
            running.append(node)
            continue
        text = f"node {node.name} is not in the plan: {node.error.message if node.error else node.status}"
        emit(WarningEvent(Digest.of(text.encode()), text))
    if not running:
        said = [f"{node.name}: {node.error.message if node.error else node.status}" for node in builder.nodes]
        raise BuilderError(
            f"no node of builder {builder.name} is running",
            hint="\n".join([*said, "anyarch inspect --bootstrap starts them"]),
        )
    return running


async def _last_seconds(builder: Builder, node: Node, names: set[str]) -> dict[str, float]:
    """How long steps took when the node last ran them, as far as its records tell."""
    found: dict[str, float] = {}

    def listen(event: Event) -> None:
        if not isinstance(event, VertexEvent) or event.name not in names or event.name in found:
            return
        if event.started is not None and event.completed is not None and not (event.cached or event.error):
            found[event.name] = event.completed - event.started

    try:
        records = await list_records(builder, node=node.name)
        for entry in [entry for entry in records if entry.record.completed is not None][:_RECORDS]:
            if names <= found.keys():
                break
            await follow_record(entry, listen)
    except AnyarchError:
        return found  # a daemon that keeps no records
    return found


def _told(row: PlanRow, node: str, seconds: dict[str, float]) -> PlanRow:
    known: Iterable[float] = [seconds[name] for name in row.names if name in seconds]
    unknown = sum(name not in seconds for name in row.names)
    total = sum(known) if unknown < len(row.names) or not row.names else None
    return msgspec.structs.replace(row, node=node, seconds=total, unknown=unknown)
