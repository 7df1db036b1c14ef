"""Provenance of the results of one build: what was captured, put into words."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import msgspec

from anyarch.attest.options import ProvenanceOptions
from anyarch.attest.predicate import TYPES, RunFacts, as_version_02, predicate
from anyarch.attest.steps import steps_of
from anyarch.engine.calls import provenance_of
from anyarch.errors import IncompleteMaterials
from anyarch.exporter.attestation import Attestation
from anyarch.llb.definition import Definition
from anyarch.spec.media import to_oci
from anyarch.spec.platform import Platform
from anyarch.spec.timestamp import format_time
from anyarch.version import DOCKERFILE_LINE
from anyarch.worker.result import SnapshotResult

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from anyarch.attest.capture import Capture
    from anyarch.attest.request import RequestFacts
    from anyarch.engine.calls import FrontendCall, Producers
    from anyarch.solver.solver import Solver
    from anyarch.spec.oci import Descriptor
    from anyarch.worker.worker import Worker

__all__ = ["Provenance", "ResultGraph", "Run"]


class ResultGraph(msgspec.Struct, frozen=True):
    """One result of a build: what it is called, for which platform it is, and its graph."""

    name: str
    platform: Platform
    definition: Definition | None


class Run:
    """One run of the builder. With `epoch` (SOURCE_DATE_EPOCH) it tells no other time, and its id is made of
    what is told of it: the same build tells the same. `custom` is added by whoever runs the builder."""

    def __init__(
        self,
        identity: str,
        *,
        started: float | None = None,
        epoch: int | None = None,
        compatibility: int = 0,
        custom: dict[str, Any] | None = None,
    ) -> None:
        self.identity = identity
        self.started = time.time() if started is None else started
        self.epoch = epoch
        self.compatibility = compatibility or 30
        self.custom = custom or {}

    def facts(self, options: ProvenanceOptions) -> RunFacts:
        """As far as `options` want it told. Its end is now."""
        started = finished = ""
        identity = self.identity
        if not options.has_run:
            identity = ""
        elif self.epoch is not None:
            started = finished = format_time(self.epoch)
            identity = ""
        else:
            started = format_time(self.started)
            finished = format_time(max(time.time(), self.started + 1e-6))
        return RunFacts(
            identity,
            started,
            finished,
            self.compatibility,
            dockerfile_version=DOCKERFILE_LINE,
            custom=self.custom,
        )


class Provenance:
    """Tells of the `graphs` of one build, which are solved. `is_single`: the build was for no platforms."""

    def __init__(
        self,
        worker: Worker,
        solver: Solver,
        call: FrontendCall,
        producers: Producers,
        run: Run,
        graphs: Sequence[ResultGraph],
        *,
        is_single: bool = False,
    ) -> None:
        self._worker = worker
        self._solver = solver
        self._call = call
        self._producers = producers
        self._run = run
        self._graphs = [graph for graph in graphs if graph.definition is not None]
        self._is_single = is_single

    def attestation(self, name: str, options: ProvenanceOptions) -> Attestation | None:
        """What is attested of the result of that name, written when it is exported; None where there is
        nothing to tell. Raises `IncompleteMaterials`."""
        graph = self._graph(name)
        if graph is None or graph.definition is None:
            return None
        if options.complete:
            found = self._found(graph.definition, graph.platform)
            if found is not None and (found[0].is_incomplete or found[0].locals):
                raise incomplete(found[0])

        def write() -> bytes:
            return msgspec.json.encode(self.document(name, options))

        return Attestation(TYPES[options.version], b"", options.filename, (), options.inline_only, write)

    def document(self, name: str, options: ProvenanceOptions) -> dict[str, Any] | None:
        """The predicate about the result of that name."""
        graph = self._graph(name)
        if graph is None or graph.definition is None:
            return None
        found = self._found(graph.definition, graph.platform)
        if found is None:
            return None
        run = self._run.facts(options)
        if options.is_max:
            steps = steps_of(graph.definition)
            run = msgspec.structs.replace(run, steps=steps, layers=self._layers(steps.numbers))
        document = predicate(found[0], found[1], options, run)
        if options.has_run and not run.id:
            from anyarch.spec.digest import Digest

            own = Digest.of(msgspec.json.encode(document)).hex[:25]
            document["runDetails"]["metadata"] = {
                "invocationId": own,
                **document["runDetails"]["metadata"],
            }
        return document if options.version == "v1" else as_version_02(document)

    def for_metadata(self, *, is_max: bool) -> dict[str, Any]:
        """What the metadata file of a build tells, by its keys."""
        from anyarch.attest.predicate import for_metadata

        found = {}
        for name, is_only in self.names():
            document = self.document(name, ProvenanceOptions())
            if document is not None:
                key = "buildx.build.provenance" + ("" if is_only else f"/{name}")
                found[key] = for_metadata(msgspec.json.encode(document), TYPES["v1"], is_max=is_max)
        return found

    def names(self) -> list[tuple[str, bool]]:
        """The names of all results, and whether it is the only one."""
        return [(graph.name, self._is_single) for graph in self._graphs]

    def _graph(self, name: str) -> ResultGraph | None:
        return next((graph for graph in self._graphs if graph.name == name), None)

    def _found(self, definition: Definition, platform: Platform) -> tuple[Capture, RequestFacts] | None:
        return provenance_of(
            self._call,
            definition,
            self._producers,
            results=[graph.definition for graph in self._graphs if graph.definition is not None],
            platform=None if self._is_single else platform,
            platforms=[graph.platform for graph in self._graphs],
        )

    def _layers(self, numbers: dict[str, int]) -> dict[str, list[list[dict[str, Any]]]]:
        """The blobs that there are by now of what steps made."""
        found: dict[str, list[list[dict[str, Any]]]] = {}
        for solved in self._solver.solved():
            number = numbers.get(solved.vertex.digest)
            if number is None:
                continue
            for index, output in enumerate(solved.outputs or ()):
                chain = self._blobs(output.layers) if isinstance(output, SnapshotResult) else None
                if chain:
                    found[f"step{number}:{index}"] = [[_told(blob) for blob in chain]]
            own = getattr(solved.vertex.operation, "blobs", None)
            if own is not None and own():  # of an image that nothing had to be seen of
                found.setdefault(f"step{number}:0", [[_told(blob) for blob in own()]])
        return found

    def _blobs(self, layers: Iterable[str]) -> list[Descriptor] | None:
        """Those of a chain; None where one was never made."""
        found = []
        for identity in layers:
            blob = self._worker.layers.known_blob(self._worker.layers.get(identity))
            if blob is None:
                return None
            found.append(blob)
        return found


def _told(blob: Descriptor) -> dict[str, Any]:
    return {"mediaType": to_oci(blob.media_type), "digest": str(blob.digest), "size": blob.size}


def incomplete(capture: Capture) -> IncompleteMaterials:
    """The error of a build all of whose materials have to be known by a digest, when they are not."""
    lines = [
        "provenance materials are incomplete",
        "",
        "The build requested complete provenance materials, but not all dependencies could be captured.",
    ]
    if capture.locals:
        lines += ["", "Uncaptured local sources:"]
        for name in sorted(capture.locals):
            lines += [f"  - {name or '<unnamed>'}", "    reason: local_source"]
    if capture.unknown:
        lines += ["", "Uncaptured requests:"]
    for item in capture.unknown:
        lines.append(f"  - {item.name or item.op or item.url}")
        told = {"method": item.method, "url": item.url, "reason": item.reason}
        lines += [f"    {key}: {value}" for key, value in told.items() if value]
    return IncompleteMaterials(
        "\n".join(lines),
        names=tuple(sorted(capture.locals)),
        requests=tuple(item.document() for item in capture.unknown),
    )
