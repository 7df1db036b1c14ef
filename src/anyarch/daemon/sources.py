"""What a client's frontend asks about sources (`LLBBridge.ResolveImageConfig`, `ResolveSourceMeta`),
under the build's source policy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anyarch.api.proto import gateway_pb2, llb_pb2
from anyarch.api.rpc.server import unary
from anyarch.daemon.platforms import platform_of
from anyarch.daemon.sourcemeta import resolve
from anyarch.errors import BuildError
from anyarch.llb.ops import SourceOp

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence
    from typing import Any

    from anyarch.api.proto import sourcepolicy_pb2
    from anyarch.api.rpc.server import Handler, ServerCall
    from anyarch.daemon.bridge import Bridge
    from anyarch.daemon.job import Job
    from anyarch.daemon.policy import JobPolicy
    from anyarch.engine.workbench import Workbench

__all__ = ["policy_of", "source_methods"]


def source_methods(bridge_of: Callable[[ServerCall], Coroutine[Any, Any, Bridge]]) -> dict[str, Handler]:
    """`bridge_of` tells which frontend asks."""

    async def resolve_image_config(
        request: gateway_pb2.ResolveImageConfigRequest, call: ServerCall
    ) -> gateway_pb2.ResolveImageConfigResponse:
        bridge = await bridge_of(call)
        job = bridge.job
        layout = (request.StoreID or "") if request.ResolverType == 1 else ""

        async def work(bench: Workbench) -> gateway_pb2.ResolveImageConfigResponse:
            from anyarch.engine.sourcepolicy import policed_image

            name = request.Ref
            platform = platform_of(request.Platform) if request.HasField("Platform") else None
            policy = policy_of(job, request.SourcePolicies)
            if policy is not None:
                name = await policed_image(policy, name, platform, is_layout=bool(layout))
            image = await bench.gateway.resolve_image_config(
                name,
                platform=platform,
                mode=request.ResolveMode or "default",
                log_name=request.LogName,
                layout=layout,
            )
            bridge.call.add_image(image.reference, platform, image.digest, is_local=bool(layout))
            return gateway_pb2.ResolveImageConfigResponse(
                Digest=image.digest, Config=image.config, Ref=image.reference
            )

        return await job.run(work)

    async def resolve_source_meta(
        request: gateway_pb2.ResolveSourceMetaRequest, call: ServerCall
    ) -> gateway_pb2.ResolveSourceMetaResponse:
        bridge = await bridge_of(call)
        job = bridge.job

        async def work(bench: Workbench) -> gateway_pb2.ResolveSourceMetaResponse:
            policy = policy_of(job, request.SourcePolicies)
            if policy is not None:
                sent = SourceOp(request.Source.identifier, dict(request.Source.attrs))
                platform = platform_of(request.Platform) if request.HasField("Platform") else None
                try:
                    made = await policy.evaluate(sent, platform)
                except BuildError as error:
                    error.message = f"could not resolve image due to policy: {error.message}"
                    raise
                changed = llb_pb2.SourceOp(identifier=made.identifier, attrs=made.attrs)
                request.Source.CopyFrom(changed)
            reply = await resolve(bench, request)
            if reply.HasField("Image"):
                scheme, _, name = reply.Source.identifier.partition("://")
                platform = platform_of(request.Platform) if request.HasField("Platform") else None
                is_local = scheme == "oci-layout"
                bridge.call.add_image(name, platform, reply.Image.Digest, is_local=is_local)
            return reply

        return await job.run(work)

    return {
        "ResolveImageConfig": unary(gateway_pb2.ResolveImageConfigRequest, resolve_image_config),
        "ResolveSourceMeta": unary(gateway_pb2.ResolveSourceMetaRequest, resolve_source_meta),
    }


def policy_of(job: Job, more: Sequence[sourcepolicy_pb2.Policy]) -> JobPolicy | None:
    """What decides on the sources of one request. Raises `UsageError`."""
    assert job.policy is not None  # with the workbench, which whoever asks has
    policy = job.policy.extended(more) if more else job.policy
    return None if policy.is_empty else policy
