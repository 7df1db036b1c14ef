"""The service `moby.buildkit.v1.Control`: what clients ask of a daemon."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from typing import TYPE_CHECKING

from anyarch.api.proto import control_pb2
from anyarch.api.rpc.server import unary
from anyarch.api.rpc.status import Code, RpcError
from anyarch.daemon.events import status_messages
from anyarch.daemon.gateway import frontend_inputs, run_frontend
from anyarch.daemon.job import Job
from anyarch.daemon.records import version_message, worker_record
from anyarch.engine.request import CacheOption, Output
from anyarch.engine.workbench import SolveResult
from anyarch.llb.definition import Definition

if TYPE_CHECKING:
    from pathlib import Path

    from anyarch.api.proto import worker_pb2
    from anyarch.api.rpc.server import Handler, ServerCall
    from anyarch.daemon.job import Jobs
    from anyarch.daemon.log import Log
    from anyarch.daemon.platforms import Platforms
    from anyarch.daemon.settings import Settings
    from anyarch.engine.request import BuildResult
    from anyarch.engine.workbench import Workbench
    from anyarch.session.lender import Sessions

__all__ = ["Control", "now_header"]

_PREFIX = "/moby.buildkit.v1.Control/"


class Control:
    def __init__(
        self,
        settings: Settings,
        identity: str,
        platforms: Platforms,
        jobs: Jobs,
        sessions: Sessions,
        root: Path,
        log: Log,
    ) -> None:
        self._settings = settings
        self._identity = identity
        self._platforms = platforms
        self._jobs = jobs
        self._sessions = sessions
        self._root = root
        self._log = log

    def methods(self) -> dict[str, Handler]:
        table: dict[str, Handler] = {
            "Info": unary(control_pb2.InfoRequest, self.info),
            "ListWorkers": unary(control_pb2.ListWorkersRequest, self.list_workers),
            "Session": self._sessions.serve,
            "Solve": unary(control_pb2.SolveRequest, self.solve),
            "Status": self.status,
        }
        return {_PREFIX + name: handler for name, handler in table.items()}

    async def info(self, request: control_pb2.InfoRequest, call: ServerCall) -> control_pb2.InfoResponse:
        return control_pb2.InfoResponse(buildkitVersion=version_message())

    async def worker(self) -> worker_pb2.WorkerRecord:
        platforms = await asyncio.to_thread(self._platforms.list)
        return worker_record(self._settings, self._identity, platforms)

    async def list_workers(
        self, request: control_pb2.ListWorkersRequest, call: ServerCall
    ) -> control_pb2.ListWorkersResponse:
        record = await self.worker()
        return control_pb2.ListWorkersResponse(record=[record])

    # builds ----------------------------------------------------------------------------------------

    async def status(self, call: ServerCall) -> None:
        request = await call.request(control_pb2.StatusRequest)
        call.send_headers([now_header()])
        log = await self._jobs.log(request.Ref)
        async for events in log.follow():
            for message in status_messages(events):
                await call.send(message)

    async def solve(self, request: control_pb2.SolveRequest, call: ServerCall) -> control_pb2.SolveResponse:
        if not request.Ref:
            raise RpcError(Code.INVALID_ARGUMENT, "the build has no ref")
        job = Job(request, self._sessions, self._settings, self._root)
        await self._jobs.add(job)
        try:
            job.start()
            response = await self._build(job)
        except BaseException as error:
            self._log.debug(f"build {job.ref} failed: {error}")
            raise
        finally:
            await asyncio.shield(self._end(job))
        return control_pb2.SolveResponse(ExporterResponse=response)

    async def _end(self, job: Job) -> None:
        try:
            await job.close()
        finally:
            self._jobs.remove(job)

    async def _build(self, job: Job) -> dict[str, str]:
        request = job.request
        outputs = _outputs(request)
        imports = [CacheOption(item.Type, dict(item.Attrs)) for item in request.Cache.Imports]
        exports = [CacheOption(item.Type, dict(item.Attrs)) for item in request.Cache.Exports]
        if not request.Frontend and not request.Definition.ByteSize():
            result = await job.returned
        else:
            platforms = await asyncio.to_thread(self._platforms.list)

            async def solve(bench: Workbench) -> SolveResult:
                await bench.import_caches(imports)
                if request.Definition.ByteSize():
                    if request.Frontend:
                        raise RpcError(
                            Code.INVALID_ARGUMENT, "cannot solve with Definition and Frontend specified"
                        )
                    definition = Definition.unmarshal(request.Definition.SerializeToString())
                    return SolveResult(ref=definition if definition.ops else None)
                return await run_frontend(
                    bench,
                    request.Frontend,
                    dict(request.FrontendAttrs),
                    session=request.Session,
                    platforms=platforms,
                    inputs=frontend_inputs(request.FrontendInputs),
                )

            result = await job.run(solve)
        if not outputs and not exports and request.Internal:
            return _frontend_metadata(result)
        text = request.FrontendAttrs.get("build-arg:SOURCE_DATE_EPOCH", "")
        epoch = int(text) if text.isascii() and text.isdigit() else None

        async def export(bench: Workbench) -> BuildResult:
            done = await bench.export(result, outputs, cache_to=exports, epoch=epoch)
            if self._settings.gc:
                await bench.collect()
            return done

        outcome = await job.run(export)
        return {**_frontend_metadata(result), **_response(outcome, outputs)}


def now_header() -> tuple[str, str]:
    """The daemon's clock, for clients whose own differs."""
    now = time.time_ns()
    text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now // 1_000_000_000))
    return "buildkit-current-timestamp", f"{text}.{now % 1_000_000_000:09d}Z"


def _outputs(request: control_pb2.SolveRequest) -> list[Output]:
    """Raises `UsageError` for attributes that are wrong."""
    from anyarch.engine.options import check_output

    pairs = [(item.Type, dict(item.Attrs)) for item in request.Exporters]
    if not pairs and request.ExporterDeprecated:
        pairs = [(request.ExporterDeprecated, dict(request.ExporterAttrsDeprecated))]
    outputs = []
    for kind, attrs in pairs:
        output = Output(kind, None, {key: value for key, value in attrs.items() if key != "dest"})
        check_output(output)
        outputs.append(output)
    return outputs


def _frontend_metadata(result: SolveResult) -> dict[str, str]:
    return {
        key: value.decode("utf-8", "replace")
        for key, value in result.metadata.items()
        if key.startswith("frontend.")
    }


def _response(outcome: BuildResult, outputs: list[Output]) -> dict[str, str]:
    response = {key: str(value) for key, value in outcome.metadata.items()}
    if outcome.digest is not None:
        response["containerimage.digest"] = outcome.digest
        raw = json.dumps(outcome.descriptor, separators=(",", ":")).encode()
        response["containerimage.descriptor"] = base64.b64encode(raw).decode()
    if outcome.config_digest is not None:
        response["containerimage.config.digest"] = outcome.config_digest
    if outcome.image_names:
        response["image.name"] = ",".join(outcome.image_names)
    return response
