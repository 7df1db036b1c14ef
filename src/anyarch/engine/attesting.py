"""Attestations of a build in this process: SBOMs are scanned, provenance is made ready to be written."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import msgspec

from anyarch.engine.attestations import read_attestations
from anyarch.engine.gateway import EngineRef
from anyarch.engine.options import attests_by_default, build_epoch
from anyarch.engine.provenance import Provenance, ResultGraph, Run
from anyarch.worker.graph import load

if TYPE_CHECKING:
    from anyarch.engine.attestations import AttestationRef
    from anyarch.engine.calls import FrontendCall
    from anyarch.engine.request import BuildRequest
    from anyarch.engine.solve import Prepared
    from anyarch.exporter.assemble import PlatformResult
    from anyarch.llb.definition import Definition

__all__ = ["attested"]


async def attested(
    request: BuildRequest, build: Prepared, results: list[PlatformResult]
) -> tuple[list[PlatformResult], Provenance]:
    """The results with what is attested of them, in the order of the frontend's platforms. Raises what
    scanning raises."""
    call, attests, frontend = build.call, build.attests, build.frontend
    assert call is not None
    assert attests is not None
    graphs = [ResultGraph(name, platform, frontend.refs.get(name)) for name, platform in frontend.platforms]
    call.solved += [graph.definition for graph in graphs if graph.definition is not None]
    scanned: dict[str, tuple[AttestationRef, ...]] = {}
    if attests.sbom is not None:
        from anyarch.engine.sbom import of_frontend

        mode = "pull" if request.pull else "default"
        scanned = await of_frontend(build.gateway, frontend, attests.sbom, mode=mode)

    def ref(definition: Definition) -> EngineRef:
        return EngineRef(build.solver, build.worker, load(build.solver, build.worker, definition))

    def producers(definition: Definition) -> tuple[FrontendCall, ...]:
        return ()  # nobody else's results are known to a build in this process

    run = Run(os.urandom(13).hex()[:25], epoch=build_epoch(frontend), started=build.started)
    is_single = len(graphs) == 1 and not frontend.multi_platform
    provenance = Provenance(build.worker, build.solver, call, producers, run, graphs, is_single=is_single)
    options = attests.provenance
    is_asked_for = not attests_by_default(request)
    if options is not None and not is_asked_for:
        # What was asked for stays the same: pushing again, or under another name, gives the same digest.
        options = msgspec.structs.replace(options, has_run=False)
    found = []
    for result, graph in zip(results, graphs, strict=True):
        more = list(await read_attestations(scanned.get(graph.name, ()), ref))
        told = provenance.attestation(graph.name, options) if options is not None else None
        if told is not None:
            more.append(msgspec.structs.replace(told, tells_names=is_asked_for))
        found.append(msgspec.structs.replace(result, attestations=tuple(more)))
    return found, provenance
