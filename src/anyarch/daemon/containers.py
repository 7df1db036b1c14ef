"""Containers that a client's frontend makes of results and of what failed steps left
(`LLBBridge.NewContainer` and its like)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anyarch.api.proto import gateway_pb2, llb_pb2
from anyarch.api.rpc.server import unary
from anyarch.api.rpc.status import Code, RpcError
from anyarch.daemon.platforms import platform_of
from anyarch.daemon.process import exec_op, exec_processes
from anyarch.worker.result import LocalResult, SnapshotResult

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any

    from anyarch.api.rpc.server import Handler, ServerCall
    from anyarch.daemon.job import Job, KnownRef
    from anyarch.engine.container import Container
    from anyarch.engine.workbench import Workbench
    from anyarch.worker.result import Result

__all__ = ["container_methods"]


def container_methods(job_of: Callable[[ServerCall], Coroutine[Any, Any, Job]]) -> dict[str, Handler]:
    """`job_of` tells which build a call is about."""

    async def new_container(
        request: gateway_pb2.NewContainerRequest, call: ServerCall
    ) -> gateway_pb2.NewContainerResponse:
        from anyarch.engine.container import Container

        job = await job_of(call)
        if request.ContainerID in job.containers:
            raise RpcError(Code.ALREADY_EXISTS, f"Container {request.ContainerID} already exists")
        refs: list[KnownRef | SnapshotResult | LocalResult] = []
        mounts = []
        for mount in request.Mounts:
            changed = llb_pb2.Mount()
            changed.CopyFrom(mount)
            changed.input, changed.output = -1, -1
            if mount.resultID:
                changed.input = len(refs)
                refs.append(job.states.get(mount.resultID) or job.known(mount.resultID))
            mounts.append(changed)
        meta = llb_pb2.Meta(
            args=["true"], cwd="/", hostname=request.hostname, extraHosts=list(request.extraHosts)
        )
        op = exec_op(meta=meta, mounts=mounts, network=request.Network)

        async def input_of(ref: KnownRef | SnapshotResult | LocalResult) -> Result:
            if isinstance(ref, (SnapshotResult, LocalResult)):
                return ref
            return await ref.ref.result() if ref.ref is not None else None

        async def work(bench: Workbench) -> Container:
            inputs = [await input_of(ref) for ref in refs]
            return Container(
                bench.worker,
                op.mounts,
                inputs,
                platform=platform_of(request.platform) if request.HasField("platform") else None,
                network=op.network,
                hostname=op.meta.hostname,
                extra_hosts=[(item.host, item.ip) for item in op.meta.extra_hosts],
            )

        job.containers[request.ContainerID] = await job.run(work)
        return gateway_pb2.NewContainerResponse()

    async def release_container(
        request: gateway_pb2.ReleaseContainerRequest, call: ServerCall
    ) -> gateway_pb2.ReleaseContainerResponse:
        job = await job_of(call)
        container = job.containers.pop(request.ContainerID, None)
        if container is None:
            raise RpcError(Code.NOT_FOUND, f"container details for {request.ContainerID} not found")

        async def work(bench: Workbench) -> None:
            await container.release()
            if container.failure is not None:  # it is released all the same
                raise container.failure

        await job.run(work)
        return gateway_pb2.ReleaseContainerResponse()

    async def exec_process(call: ServerCall) -> None:
        job = await job_of(call)
        call.send_headers()
        try:
            await exec_processes(call, job)
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None

    return {
        "NewContainer": unary(gateway_pb2.NewContainerRequest, new_container),
        "ReleaseContainer": unary(gateway_pb2.ReleaseContainerRequest, release_container),
        "ExecProcess": exec_process,
    }
