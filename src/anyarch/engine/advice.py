"""Which emulated stages could run natively instead, with `FROM --platform=$BUILDPLATFORM`.

A stage is named only when all of this holds:

- steps of it were run under an emulator in this build;
- no RUN of it sees a TARGET argument, or asks for the machine's architecture (`uname`,
  `dpkg --print-architecture` and the like);
- it is neither the result nor the base of another stage, and no RUN mounts it: others only COPY from it;
- nothing that was copied from it is machine code: no ELF, PE or Mach-O file and no static library, by the
  first bytes of every file.

So what is taken out of it is data (web assets, documentation, byte code, archives). What a step wrote into
such data because of the machine it ran on, without asking in one of these ways, is not noticed: it is advice.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from anyarch.archive.entry import Kind
from anyarch.engine.placement import is_emulated
from anyarch.engine.places import place_of
from anyarch.errors import AnyarchError
from anyarch.worker.ops.exec import ExecOperation
from anyarch.worker.ops.file import FileOperation
from anyarch.worker.result import SnapshotResult

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from anyarch.snapshot.layers import LayerStore
    from anyarch.solver.solver import Solver
    from anyarch.solver.vertex import Vertex
    from anyarch.worker.worker import Worker

__all__ = ["asks_for_the_machine", "movable_stages"]

_MACHINE = re.compile(
    rb"\x7fELF|MZ|\xfe\xed\xfa[\xce\xcf]|[\xce\xcf]\xfa\xed\xfe|\xca\xfe\xba\xbe|!<arch>\n", re.S
)
_ASKS = re.compile(
    r"\b(TARGET(PLATFORM|OS|ARCH|VARIANT)|uname|print-(foreign-)?arch\w*|print-arch|arch|getconf|lscpu"
    r"|hostnamectl|dumpmachine|nproc|process\.arch|platform\.machine|march)\b|/proc/cpuinfo|rpm -(E|-eval)"
)
_MOST_FILES = 20_000


async def movable_stages(solver: Solver, worker: Worker, results: Iterable[str]) -> tuple[str, ...]:
    """The names of such stages, in the order of the Dockerfile. `results` are the vertices that platforms'
    results are."""
    vertices = {vertex.digest: vertex for vertex in solver.vertices}
    # A base image belongs to no stage: several may stand on it.
    stages = {digest: place_of(v.name).stage if v.inputs else "" for digest, v in vertices.items()}
    candidates = dict.fromkeys(
        stages[vertex.digest] for vertex in solver.executed if is_emulated(vertex, worker)
    )
    ruled_out = {"", *(stages[digest] for digest in results)}
    copies: dict[str, list[Vertex]] = {}
    for vertex in vertices.values():
        stage = stages[vertex.digest]
        if isinstance(vertex.operation, ExecOperation) and asks_for_the_machine(vertex.operation):
            ruled_out.add(stage)
        for position, edge in enumerate(vertex.inputs):
            source = stages[edge.vertex]
            if source == stage or not source:
                continue
            if isinstance(vertex.operation, FileOperation) and vertex.operation.only_copies_from(position):
                copies.setdefault(source, []).append(vertex)
            else:
                ruled_out.add(source)
    left = [stage for stage in candidates if stage not in ruled_out and stage in copies]
    return tuple([stage for stage in left if await _all_data(solver, worker, copies[stage])])


def asks_for_the_machine(operation: ExecOperation) -> bool:
    """Whether what a RUN does may depend on the platform, as far as its text and environment tell."""
    meta = operation.meta
    return any(item.startswith("TARGET") for item in meta.env) or any(
        _ASKS.search(argument) for argument in meta.args
    )


async def _all_data(solver: Solver, worker: Worker, copies: Sequence[Vertex]) -> bool:
    import asyncio

    from anyarch.solver.vertex import Edge

    try:
        outputs = await solver.solve([Edge(vertex.digest) for vertex in copies])
        tops = {output.layers[-1] for output in outputs if isinstance(output, SnapshotResult)}
        return await asyncio.to_thread(lambda: all(_is_data(worker.layers, layer) for layer in tops))
    except AnyarchError:
        return False  # what cannot be looked at is not known to be data


def _is_data(layers: LayerStore, layer_id: str) -> bool:
    layer = layers.get(layer_id)
    files = [entry for entry in layers.index(layer) if entry.kind is Kind.FILE and entry.size >= 4]
    if len(files) > _MOST_FILES:
        return False
    for entry in files:
        with layers.open_file(layer, entry) as stream:
            if _MACHINE.match(stream.read(8)):
                return False
    return True
