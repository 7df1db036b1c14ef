"""SBOMs of the results of a build: an image with a scanner is run on each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anyarch.attest.scan import CORE, Scanner
from anyarch.engine.attestations import AttestationRef
from anyarch.errors import RegistryError
from anyarch.llb.state import State
from anyarch.llb.vertex import output_of
from anyarch.spec.intoto import SPDX

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anyarch.attest.options import SbomOptions
    from anyarch.engine.gateway import EngineGateway
    from anyarch.engine.provenance import ResultGraph
    from anyarch.frontend.gateway import FrontendResult
    from anyarch.llb.definition import Definition
    from anyarch.spec.platform import Platform

__all__ = ["has_sbom", "of_frontend", "of_graphs"]


async def _scanner(gateway: EngineGateway, options: SbomOptions, platform: Platform, mode: str) -> Scanner:
    reference = str(options.reference)
    try:
        resolved = await gateway.resolve_image_config(
            reference,
            platform=platform,
            mode=mode or "default",
            log_name=f"[internal] load metadata for {reference}",
        )
    except RegistryError as error:
        error.hint = (
            f"the scanner {options.generator} cannot be had: name another with --sbom generator=IMAGE, or "
            "leave --sbom out" + (f" ({error.hint})" if error.hint else "")
        )
        raise
    return Scanner(resolved.reference, resolved.config, platform, options)


def _attestation(definition: Definition) -> AttestationRef:
    return AttestationRef(
        definition,
        "",
        SPDX,
        is_bundle=True,
        metadata={"reason": b"sbom", "sbom-core": CORE.encode()},
    )


async def of_frontend(
    gateway: EngineGateway, found: FrontendResult, options: SbomOptions, *, mode: str = ""
) -> dict[str, tuple[AttestationRef, ...]]:
    """By platform id: of what the Dockerfile frontend made, with the stages that it wants to have scanned."""
    scanner = await _scanner(gateway, options, gateway.build_opts.build_platform, mode)
    result: dict[str, tuple[AttestationRef, ...]] = {}
    for name, _ in found.platforms:
        targets = found.scans.get(name)
        if targets is None:
            continue
        made = scanner.scan(name, targets.core, targets.extras, ignore_cache=targets.ignores_cache)
        definition = made.marshal()
        await gateway.solve(definition)
        result[name] = (_attestation(definition),)
    return result


async def of_graphs(
    gateway: EngineGateway,
    graphs: Sequence[ResultGraph],
    options: SbomOptions,
    platform: Platform,
    *,
    mode: str = "",
    ignore_cache: bool = False,
) -> dict[str, tuple[AttestationRef, ...]]:
    """Of any results."""
    scanner = await _scanner(gateway, options, platform, mode)
    result: dict[str, tuple[AttestationRef, ...]] = {}
    for graph in graphs:
        if graph.definition is None:
            continue
        state = State(output_of(graph.definition))
        definition = scanner.scan(graph.name, state, {}, ignore_cache=ignore_cache).marshal()
        result[graph.name] = (_attestation(definition),)
    return result


def has_sbom(attestations: Mapping[str, Sequence[AttestationRef]]) -> bool:
    return any(item.predicate_type == SPDX for some in attestations.values() for item in some)
