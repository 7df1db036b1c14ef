"""The architecture check: are the files that a build added what its platforms need?

After the steps and before anything leaves, the layers that this build made for a platform are looked at: the
headers of their programs and libraries, whether the image holds the loaders and libraries these name, whether
ENTRYPOINT and CMD can run, and whether the base is for the platform. What a layer holds is kept by layer, and
what was found by image, so a cached build asks one row a platform.

Nothing is fetched for it: what only a base layer that is not here could tell is not looked at.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import msgspec

from anyarch.errors import BuildError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from anyarch.elf.findings import Finding
    from anyarch.errors import SourceRange
    from anyarch.exporter.assemble import PlatformResult
    from anyarch.solver.solver import Solver
    from anyarch.solver.vertex import Edge, Vertex
    from anyarch.spec.platform import Platform
    from anyarch.worker.worker import Worker

__all__ = ["MODES", "Located", "TruthCheck", "failure", "producers", "warning_of"]

MODES = ("off", "warn", "error")
_VERSION = "3"
_MOST_WARNINGS = 20
_HINT = (
    "name files that are meant to be so with --arch-check-allow PATTERN; --arch-check=warn only warns, "
    "--arch-check=off does not look"
)


class Located:
    """A finding with its place: the platform, the id of the layer and the step that made it, where known."""

    __slots__ = ("finding", "layer", "platform", "vertex")

    def __init__(self, finding: Finding, platform: Platform, layer: str, vertex: Vertex | None) -> None:
        self.finding = finding
        self.platform = platform
        self.layer = layer
        self.vertex = vertex

    @property
    def text(self) -> str:
        what = f"{self.finding.path}: " if self.finding.path else ""
        places = []
        source = self.source
        if source is not None:
            places.append(f"{source.filename}:{source.start}")
        if self.layer:
            places.append(f"layer {self.layer.removeprefix('sha256:')[:12]}")
        where = f" ({', '.join(places)})" if places else ""
        return f"{self.platform}: {what}{self.finding.message}{where}"

    @property
    def source(self) -> SourceRange | None:
        return self.vertex.source if self.vertex is not None else None


class TruthCheck:
    """For one build. Raises `UsageError` for an unknown mode, `DockerfileError` for a malformed pattern."""

    def __init__(self, worker: Worker, solver: Solver, *, mode: str, allow: Sequence[str] = ()) -> None:
        if mode not in MODES:
            raise UsageError(
                f"invalid architecture check {mode!r}", hint=f"--arch-check is {', '.join(MODES)}"
            )
        self.mode = mode
        self._worker = worker
        self._solver = solver
        self._allow = tuple(pattern.lstrip("/") for pattern in allow)

    def check(self, result: PlatformResult, edge: Edge | None, base_config: bytes) -> list[Located]:
        """What is wrong with one platform of the result, but for what is allowed. Blocking."""
        if self.mode == "off":
            return []
        parts = [_VERSION, str(result.platform), *result.layers]
        key = hashlib.sha256("\0".join(parts).encode() + b"\0" + result.config + b"\0" + base_config)
        records = self._worker.store.cache
        kept = records.get_value("arch-check", key.hexdigest())
        if kept is None:
            from anyarch.engine.truthfiles import inspect_image

            found, is_complete = inspect_image(self._worker, result, base_config)
            if is_complete:
                records.set_value(
                    "arch-check", key.hexdigest(), msgspec.msgpack.encode(found) if found else b""
                )
        elif kept:
            from anyarch.elf.findings import Finding
            from anyarch.spec.codec import msgpack_decoder

            found = msgpack_decoder(list[tuple[int, Finding]]).decode(kept)
        else:
            return []
        return self._located(found, result, edge)

    def _located(
        self, found: Sequence[tuple[int, Finding]], result: PlatformResult, edge: Edge | None
    ) -> list[Located]:
        """With layers and steps, without what is allowed."""
        if not found:
            return []
        if self._allow:
            matcher = self._worker.patterns(self._allow)
            found = [item for item in found if not matcher.matches(item[1].path.lstrip("/"))]
        vertices = {vertex.digest: vertex for vertex in self._solver.vertices}
        made_by, base = producers(vertices, edge) if edge is not None else ([], None)
        from_top = dict(enumerate(reversed(made_by), start=1))
        located = []
        for position, finding in found:
            layer = result.layers[position] if 0 <= position < len(result.layers) else ""
            vertex = from_top.get(len(result.layers) - position) if layer else base
            located.append(Located(finding, result.platform, layer, vertex))
        return located


def producers(vertices: dict[str, Vertex], edge: Edge) -> tuple[list[Vertex], Vertex | None]:
    """The steps that made the layers above the base of a result, lowest first, and the source of the base."""
    from anyarch.worker.ops.exec import ExecOperation
    from anyarch.worker.ops.file import FileOperation
    from anyarch.worker.ops.merge import DiffOperation, MergeOperation

    found: list[Vertex] = []
    base: Vertex | None = None
    stack = [edge.vertex]
    while stack:
        vertex = vertices[stack.pop()]
        operation = vertex.operation
        match operation:
            case ExecOperation() | FileOperation():
                found.append(vertex)
                if operation.root_input >= 0:
                    stack.append(vertex.inputs[operation.root_input].vertex)
            case MergeOperation():
                # The last input is the uppermost, and is done first.
                stack += [vertex.inputs[index].vertex for index in operation.order if index >= 0]
            case DiffOperation():
                found.append(vertex)
            case _:
                base = vertex
    return found[::-1], base


def warning_of(located: Sequence[Located]) -> Iterable[tuple[str, Located]]:
    """The texts of the warnings, as many as anyone reads."""
    for item in located[:_MOST_WARNINGS]:
        yield f"ArchCheck: {item.text}", item
    if len(located) > _MOST_WARNINGS:
        yield f"ArchCheck: and {len(located) - _MOST_WARNINGS} more files", located[_MOST_WARNINGS]


def failure(located: Sequence[Located]) -> BuildError:
    """The error of `--arch-check=error`: all that was found, at the place of the first."""
    shown = [item.text for item in located[:_MOST_WARNINGS]]
    if len(located) > len(shown):
        shown.append(f"and {len(located) - len(shown)} more files")
    error = BuildError("the image is not what its platform needs: " + "\n  ".join(shown), hint=_HINT)
    first = located[0]
    error.source = first.source
    error.platform = str(first.platform)
    error.vertex = first.vertex.digest if first.vertex is not None else None
    return error
