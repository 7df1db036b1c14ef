"""`ResolveSourceMeta`: what a source is just now, without fetching it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anyarch.api.proto import gateway_pb2, wellknown_pb2
from anyarch.daemon.platforms import platform_of
from anyarch.errors import BuildError

if TYPE_CHECKING:
    from anyarch.engine.workbench import Workbench
    from anyarch.spec.platform import Platform

__all__ = ["resolve"]

_ALGORITHMS = {0: "sha256", 1: "sha384", 2: "sha512"}
_MOST_SUFFIX = 4096


async def resolve(
    bench: Workbench, request: gateway_pb2.ResolveSourceMetaRequest
) -> gateway_pb2.ResolveSourceMetaResponse:
    """Raises what resolving raises."""
    source = request.Source
    scheme, _, rest = source.identifier.partition("://")
    reply = gateway_pb2.ResolveSourceMetaResponse(Source=source)
    platform = platform_of(request.Platform) if request.HasField("Platform") else None
    match scheme:
        case "docker-image" | "oci-layout":
            image = await bench.gateway.resolve_image_config(
                rest,
                platform=platform,
                mode=request.ResolveMode or source.attrs.get("image.resolvemode", "default"),
                log_name=request.LogName,
                layout=source.attrs.get("oci.store", "") if scheme == "oci-layout" else "",
            )
            reply.Image.Digest = image.digest
            if not request.Image.NoConfig:
                reply.Image.Config = image.config
            types = list(request.Image.ResolveAttestations)
            if scheme == "docker-image" and (request.Image.AttestationChain or types):
                await _add_chain(bench, reply, image.reference, platform, types)
            return reply
        case "git":
            from anyarch.engine.sourceinfo import resolve_git

            found = await resolve_git(
                bench,
                source.SerializeToString(),
                request.LogName,
                with_objects=request.Git.ReturnObject,
            )
            reply.Git.CommitObject, reply.Git.TagObject = found.commit_object, found.tag_object
            reply.Git.Ref, reply.Git.Checksum = found.ref, found.checksum
            reply.Git.CommitChecksum = found.commit
            return reply
        case "http" | "https":
            from anyarch.engine.sourceinfo import checksum, resolve_http

            file = await resolve_http(bench, source.SerializeToString(), request.LogName)
            reply.HTTP.Checksum, reply.HTTP.Filename = file.checksum, file.filename
            if file.modified is not None:
                reply.HTTP.LastModified.CopyFrom(wellknown_pb2.Timestamp(seconds=file.modified))
            if request.HTTP.HasField("ChecksumRequest"):
                wanted = request.HTTP.ChecksumRequest
                algorithm = _ALGORITHMS.get(wanted.Algo)
                if algorithm is None:
                    raise BuildError(f"unsupported checksum algorithm {wanted.Algo}")
                if len(wanted.Suffix) > _MOST_SUFFIX:
                    raise BuildError(f"http checksum request suffix exceeds max size {_MOST_SUFFIX}")
                reply.HTTP.ChecksumResponse.Digest = await checksum(
                    bench, file.checksum, algorithm, wanted.Suffix
                )
                reply.HTTP.ChecksumResponse.Suffix = wanted.Suffix
            return reply
    return reply  # nothing more is known of a local directory before it is transferred


async def _add_chain(
    bench: Workbench,
    reply: gateway_pb2.ResolveSourceMetaResponse,
    name: str,
    platform: Platform | None,
    predicate_types: list[str],
) -> None:
    """What attests the image, for a client that wants to see that."""
    from anyarch.engine.chain import attestation_chain
    from anyarch.spec.reference import Reference

    worker = bench.worker
    reference = Reference.parse(name)
    found = await worker.in_network(
        attestation_chain, worker, reference, platform or worker.platform, predicate_types
    )
    if found is None:
        return
    chain = reply.Image.AttestationChain
    chain.Root, chain.ImageManifest, chain.AttestationManifest = found.root, found.image, found.attestation
    chain.SignatureManifests.extend(found.signatures)
    for digest, (descriptor, raw) in found.blobs.items():
        message = chain.Blobs[digest]
        message.data = raw
        message.descriptor.media_type, message.descriptor.digest = descriptor.media_type, descriptor.digest
        message.descriptor.size = descriptor.size
        for key, value in (descriptor.annotations or {}).items():
            message.descriptor.annotations[key] = value
