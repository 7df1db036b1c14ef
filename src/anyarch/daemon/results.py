"""Results of frontends as messages (`gateway.Result`): refs that the client knows by ids, metadata and
attestations, in both directions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from anyarch.api.proto import gateway_pb2, llb_pb2
from anyarch.api.rpc.status import Code, RpcError
from anyarch.engine.workbench import AttestationRef, SolveResult
from anyarch.exporter.attestation import Subject

if TYPE_CHECKING:
    from anyarch.daemon.job import Job
    from anyarch.engine.gateway import EngineRef
    from anyarch.engine.workbench import Workbench
    from anyarch.llb.definition import Definition

__all__ = ["known_refs", "result_message", "returned_result"]


def result_message(job: Job, found: SolveResult, refs: dict[str, EngineRef | None]) -> gateway_pb2.Result:
    def message(ref: EngineRef | None, definition: Definition | None) -> gateway_pb2.Ref:
        if ref is None or definition is None:
            return gateway_pb2.Ref()
        return gateway_pb2.Ref(
            id=job.know(ref, definition), **{"def": llb_pb2.Definition.FromString(definition.marshal())}
        )

    result = gateway_pb2.Result(metadata=found.metadata)
    for name, items in found.attestations.items():
        result.attestations[name].attestation.extend(_attestation_message(job, item) for item in items)
    if found.refs is not None:
        result.refs.SetInParent()
        for name, definition in found.refs.items():
            result.refs.refs[name].CopyFrom(message(refs[name], definition))
    else:
        result.ref.CopyFrom(message(refs[""], found.ref))
    return result


async def known_refs(job: Job, found: SolveResult) -> list[str]:
    """Ids under which a client can look into a result."""
    definitions = found.refs.values() if found.refs is not None else [found.ref]
    wanted = [definition for definition in definitions if definition is not None]

    async def work(bench: Workbench) -> list[EngineRef]:
        return [bench.load(definition) for definition in wanted]

    refs = await job.run(work)
    return [job.know(ref, definition) for ref, definition in zip(refs, wanted, strict=True)]


def returned_result(job: Job, result: gateway_pb2.Result) -> SolveResult:
    """What a frontend of `job` returned. Raises `RpcError` for refs that the build does not know."""

    def definition(ref: gateway_pb2.Ref) -> Definition | None:
        return job.known(ref.id).definition if ref.id else None

    metadata = {key: bytes(value) for key, value in result.metadata.items()}
    match result.WhichOneof("result"):
        case "refs":
            refs = {key: definition(ref) for key, ref in result.refs.refs.items()}
            found = SolveResult(refs=refs, metadata=metadata)
        case "ref":
            found = SolveResult(ref=definition(result.ref), metadata=metadata)
        case "refDeprecated":
            found = SolveResult(ref=definition(gateway_pb2.Ref(id=result.refDeprecated)), metadata=metadata)
        case "refsDeprecated":
            refs = {
                key: definition(gateway_pb2.Ref(id=value))
                for key, value in result.refsDeprecated.refs.items()
            }
            found = SolveResult(refs=refs, metadata=metadata)
        case _:
            found = SolveResult(metadata=metadata)
    attestations = {
        name: tuple(_attestation(item, definition(item.ref)) for item in items.attestation)
        for name, items in result.attestations.items()
    }
    return msgspec.structs.replace(found, attestations=attestations)


def _attestation(message: gateway_pb2.Attestation, definition: Definition | None) -> AttestationRef:
    """Raises `RpcError` for a subject of a kind that is not known."""
    subjects = []
    for item in message.inTotoSubjects:
        if item.kind not in (0, 1):
            raise RpcError(Code.INVALID_ARGUMENT, f"unknown attestation subject type {item.kind}")
        subjects.append(Subject(item.name, tuple(item.digest) if item.kind == 1 else ()))
    return AttestationRef(
        definition,
        message.path,
        message.inTotoPredicateType,
        tuple(subjects),
        is_bundle=message.kind == 1,
        metadata={key: bytes(value) for key, value in message.metadata.items()},
    )


def _attestation_message(job: Job, item: AttestationRef) -> gateway_pb2.Attestation:
    message = gateway_pb2.Attestation(
        kind=1 if item.is_bundle else 0,  # type: ignore[arg-type]
        metadata=item.metadata,
        path=item.path,
        inTotoPredicateType=item.predicate_type,
    )
    for subject in item.subjects:
        message.inTotoSubjects.add(
            kind=1 if subject.digests else 0, digest=subject.digests, name=subject.name
        )
    if item.definition is not None:
        raw = llb_pb2.Definition.FromString(item.definition.marshal())
        message.ref.CopyFrom(gateway_pb2.Ref(id=job.know(None, item.definition), **{"def": raw}))
    return message
