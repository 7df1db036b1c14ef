"""The service `moby.buildkit.v1.frontend.LLBBridge`: what a client's own frontend asks of the build that it
leads."""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING

from anyarch.api.proto import gateway_pb2
from anyarch.api.rpc.server import unary
from anyarch.api.rpc.status import Code, RpcError
from anyarch.daemon.bridge import Bridges
from anyarch.daemon.caps import frontend_caps, llb_caps
from anyarch.daemon.containers import container_methods
from anyarch.daemon.failure import error_of_status
from anyarch.daemon.files import container_file_methods, ref_file_methods
from anyarch.daemon.frontends import Frontends
from anyarch.daemon.requestlimits import check_gateway_solve, few_large_answers
from anyarch.daemon.results import result_message, returned_result
from anyarch.daemon.solveerror import told_in_full
from anyarch.daemon.sources import policy_of, source_methods
from anyarch.engine.request import CacheOption
from anyarch.engine.workbench import SolveResult
from anyarch.llb.definition import Definition
from anyarch.solver.events import WarningEvent

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any

    from anyarch.api.proto import worker_pb2
    from anyarch.api.rpc.server import Handler, ServerCall
    from anyarch.daemon.job import Jobs
    from anyarch.engine.gateway import EngineRef
    from anyarch.engine.workbench import Workbench
    from anyarch.spec.platform import Platform

__all__ = ["Gateway"]

_PREFIX = "/moby.buildkit.v1.frontend.LLBBridge/"
_MOST_WARNED = 16 << 20
"""Of one build: all of them are kept."""


class Gateway:
    """`workers` gives the records for Ping, `platforms` what steps can be run for. `frontends` are for
    requests of other services too."""

    def __init__(
        self,
        jobs: Jobs,
        workers: Callable[[], Coroutine[Any, Any, worker_pb2.WorkerRecord]],
        platforms: Callable[[], list[Platform]],
    ) -> None:
        self._workers = workers
        self._bridges = Bridges(jobs)
        self.frontends = Frontends(
            workers, platforms, lambda only: self._bound(Bridges(jobs, only)).methods()
        )

    def _bound(self, bridges: Bridges) -> Gateway:
        """The same for the frontends of `bridges`."""
        made = copy(self)
        made._bridges = bridges
        return made

    def methods(self) -> dict[str, Handler]:
        job_of = self._bridges.job
        table: dict[str, Handler] = {
            "Ping": unary(gateway_pb2.PingRequest, self.ping),
            "Solve": unary(gateway_pb2.SolveRequest, self.solve),
            "Evaluate": unary(gateway_pb2.EvaluateRequest, self.evaluate),
            "Inputs": unary(gateway_pb2.InputsRequest, self.inputs),
            "Warn": unary(gateway_pb2.WarnRequest, self.warn),
            "Return": unary(gateway_pb2.ReturnRequest, self.return_),
            **source_methods(self._bridges.of),
            **ref_file_methods(job_of),
            **container_methods(job_of),
            **container_file_methods(job_of),
        }
        return {_PREFIX + name: handler for name, handler in few_large_answers(table).items()}

    async def ping(self, request: gateway_pb2.PingRequest, call: ServerCall) -> gateway_pb2.PongResponse:
        await self._bridges.of(call)
        return gateway_pb2.PongResponse(
            FrontendAPICaps=frontend_caps(), LLBCaps=llb_caps(), Workers=[await self._workers()]
        )

    async def solve(self, request: gateway_pb2.SolveRequest, call: ServerCall) -> gateway_pb2.SolveResponse:
        check_gateway_solve(request)
        bridge = await self._bridges.of(call)
        job = bridge.job
        imports = [CacheOption(item.Type, dict(item.Attrs)) for item in request.CacheImports]

        async def prepare(bench: Workbench) -> None:
            await bench.import_caches(imports)

        await job.run(prepare)
        if request.Frontend:
            if request.Definition.ByteSize():
                raise RpcError(Code.INVALID_ARGUMENT, "cannot solve with Definition and Frontend specified")
            found = await self.frontends.solve(
                job, request.Frontend, dict(request.FrontendOpt), request.FrontendInputs, bridge.call
            )
        else:
            sent = Definition.unmarshal(request.Definition.SerializeToString())

            async def police(bench: Workbench) -> Definition:
                return await bench.policed(sent, policy_of(job, request.SourcePolicies))

            definition = await job.run(police)
            if definition.ops:
                bridge.call.solved.append(definition)
            found = SolveResult(ref=definition if definition.ops else None)

        async def work(bench: Workbench) -> dict[str, EngineRef | None]:
            definitions = found.refs if found.refs is not None else {"": found.ref}
            refs = {
                name: bench.load(definition) if definition is not None else None
                for name, definition in definitions.items()
            }
            if request.Evaluate:
                for ref in refs.values():
                    if ref is not None:
                        await ref.evaluate()
            return refs

        definitions = found.refs.values() if found.refs is not None else [found.ref]
        with told_in_full(job, definitions):
            refs = await job.run(work)
        return gateway_pb2.SolveResponse(result=result_message(job, found, refs))

    async def evaluate(
        self, request: gateway_pb2.EvaluateRequest, call: ServerCall
    ) -> gateway_pb2.EvaluateResponse:
        job = await self._bridges.job(call)
        known = job.known(request.Ref)

        async def work(bench: Workbench) -> None:
            if known.ref is not None:
                await known.ref.evaluate()

        with told_in_full(job, [known.definition]):
            await job.run(work)
        return gateway_pb2.EvaluateResponse()

    async def inputs(
        self, request: gateway_pb2.InputsRequest, call: ServerCall
    ) -> gateway_pb2.InputsResponse:
        bridge = await self._bridges.of(call)
        return gateway_pb2.InputsResponse(Definitions=bridge.inputs)

    async def return_(
        self, request: gateway_pb2.ReturnRequest, call: ServerCall
    ) -> gateway_pb2.ReturnResponse:
        bridge = await self._bridges.of(call)
        job, returned = bridge.job, bridge.returned
        if returned.done():
            raise RpcError(Code.FAILED_PRECONDITION, "the build has its result already")
        if request.HasField("error"):
            returned.set_exception(error_of_status(request.error))
            returned.exception()
            return gateway_pb2.ReturnResponse()
        returned.set_result(returned_result(job, request.result))
        return gateway_pb2.ReturnResponse()

    async def warn(self, request: gateway_pb2.WarnRequest, call: ServerCall) -> gateway_pb2.WarnResponse:
        job = await self._bridges.job(call)
        job.warned_bytes += request.ByteSize()
        if job.warned_bytes > _MOST_WARNED:
            raise RpcError(Code.RESOURCE_EXHAUSTED, f"warnings of more than {_MOST_WARNED} bytes")
        job.warnings += 1
        job.log.add(
            WarningEvent(
                request.digest,
                request.short.decode("utf-8", "surrogateescape"),
                tuple(line.decode("utf-8", "surrogateescape") for line in request.detail),
                request.url,
                request.level,
                request.info.filename,
                bytes(request.info.data),
                tuple((item.start.line, item.end.line) for item in request.ranges),
            )
        )
        return gateway_pb2.WarnResponse()
