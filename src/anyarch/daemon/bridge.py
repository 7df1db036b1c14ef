"""Which frontend a call of `LLBBridge` is of: that of a build which the client leads, by the build's id, or
the one at the other end of a connection of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anyarch.api.rpc.status import Code, RpcError

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Mapping

    from anyarch.api.proto import llb_pb2
    from anyarch.api.rpc.server import ServerCall
    from anyarch.daemon.job import Job, Jobs
    from anyarch.engine.calls import FrontendCall
    from anyarch.engine.workbench import SolveResult

__all__ = ["Bridge", "Bridges"]

_BUILD_ID = "buildkit-controlapi-buildid"


class Bridge:
    """What one frontend leads: the build, the inputs it was given, and where its result goes."""

    def __init__(
        self,
        job: Job,
        returned: asyncio.Future[SolveResult],
        inputs: Mapping[str, llb_pb2.Definition],
        call: FrontendCall,
    ) -> None:
        """`call` gets what the frontend looks into."""
        self.call = call
        self.job = job
        self.returned = returned
        self.inputs = inputs


class Bridges:
    """Those of `jobs`, or just one, whose calls name no build."""

    def __init__(self, jobs: Jobs, only: Bridge | None = None) -> None:
        self._jobs = jobs
        self._only = only

    async def of(self, call: ServerCall) -> Bridge:
        """Raises `RpcError`."""
        if self._only is not None:
            return self._only
        build = call.metadata.get(_BUILD_ID)
        if not build:
            raise RpcError(Code.INVALID_ARGUMENT, "no buildid found in context")
        job = await self._jobs.get(build)
        return Bridge(job, job.returned, job.request.FrontendInputs, job.call)

    async def job(self, call: ServerCall) -> Job:
        """Raises `RpcError`."""
        return (await self.of(call)).job
