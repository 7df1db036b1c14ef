"""The service `moby.buildkit.v1.Control`: what clients ask of a daemon."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING

import msgspec

from anyarch.api.proto import control_pb2
from anyarch.api.rpc.server import unary
from anyarch.api.rpc.status import Code, RpcError
from anyarch.attest.options import ProvenanceOptions, parse_attests
from anyarch.daemon.events import status_messages
from anyarch.daemon.failure import translate, with_stack
from anyarch.daemon.gateway import Gateway
from anyarch.daemon.job import Job
from anyarch.daemon.outputs import checked_outputs, compatibility_of, compatible_outputs, outputs_of
from anyarch.daemon.records import device_messages, gc_policies, version_message, worker_record
from anyarch.daemon.requestlimits import check_filters, check_solve
from anyarch.daemon.results import known_refs
from anyarch.daemon.sessionexporter import SessionExporter
from anyarch.daemon.storage import disk_usage, prune_store
from anyarch.engine.provenance import Run
from anyarch.engine.request import CacheOption
from anyarch.engine.workbench import SolveResult
from anyarch.errors import StoreError
from anyarch.llb.definition import Definition
from anyarch.session.identity import base36_id
from anyarch.spec.number import natural

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from anyarch.api.proto import worker_pb2
    from anyarch.api.rpc.server import Handler, ServerCall
    from anyarch.attest.options import Attests
    from anyarch.daemon.history import History
    from anyarch.daemon.job import Jobs
    from anyarch.daemon.log import Log
    from anyarch.daemon.platforms import Platforms
    from anyarch.daemon.settings import Settings
    from anyarch.engine.request import BuildResult, Output
    from anyarch.engine.workbench import Workbench
    from anyarch.session.lender import Sessions
    from anyarch.store.store import Store

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
        history: History,
        on_growth: Callable[[], object] = lambda: None,
    ) -> None:
        """`on_growth` is called after a build that added to the store."""
        self._on_growth = on_growth
        self._history = history
        self.gateway = Gateway(jobs, self.worker, platforms.list)
        self._settings = settings
        self._identity = identity
        self._platforms = platforms
        self._jobs = jobs
        self._sessions = sessions
        self._root = root
        self._log = log

    def methods(self) -> dict[str, Handler]:
        table: dict[str, Handler] = {
            "DiskUsage": unary(control_pb2.DiskUsageRequest, self.disk_usage),
            "Info": unary(control_pb2.InfoRequest, self.info),
            "ListenBuildHistory": self.listen_build_history,
            "Prune": self.prune,
            "UpdateBuildHistory": unary(control_pb2.UpdateBuildHistoryRequest, self.update_build_history),
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
        record = worker_record(self._settings, self._identity, platforms, network=self._jobs.networks.label)
        record.GCPolicy.extend(await asyncio.to_thread(gc_policies, self._settings, self._root))
        record.CDIDevices.extend(await asyncio.to_thread(device_messages, self._settings))
        return record

    async def list_workers(
        self, request: control_pb2.ListWorkersRequest, call: ServerCall
    ) -> control_pb2.ListWorkersResponse:
        record = await self.worker()
        return control_pb2.ListWorkersResponse(record=[record])

    # the store -------------------------------------------------------------------------------------

    async def disk_usage(
        self, request: control_pb2.DiskUsageRequest, call: ServerCall
    ) -> control_pb2.DiskUsageResponse:
        check_filters(request.filter)
        records = await asyncio.to_thread(disk_usage, self._root, request)
        return control_pb2.DiskUsageResponse(record=records)

    async def prune(self, call: ServerCall) -> None:
        request = await call.request(control_pb2.PruneRequest)
        check_filters(request.filter)
        loop = asyncio.get_running_loop()

        def removed(record: control_pb2.UsageRecord) -> None:
            loop.call_soon_threadsafe(call.send_nowait, record.SerializeToString())

        await asyncio.to_thread(prune_store, self._root, request, removed)

    # history ---------------------------------------------------------------------------------------

    async def listen_build_history(self, call: ServerCall) -> None:
        request = await call.request(control_pb2.BuildHistoryRequest)
        check_filters(request.Filter)
        call.send_headers([now_header()])
        async with aclosing(self._history.listen(request)) as events:
            async for event in events:
                await call.send(event)

    async def update_build_history(
        self, request: control_pb2.UpdateBuildHistoryRequest, call: ServerCall
    ) -> control_pb2.UpdateBuildHistoryResponse:
        await self._history.update(request)
        return control_pb2.UpdateBuildHistoryResponse()

    # builds ----------------------------------------------------------------------------------------

    async def status(self, call: ServerCall) -> None:
        request = await call.request(control_pb2.StatusRequest)
        call.send_headers([now_header()])
        if not self._jobs.knows(request.Ref):
            stored = await self._history.stored_log(request.Ref)
            if stored is not None:
                for raw in stored:
                    await call.send(raw)
                return
        log = await self._jobs.log(request.Ref)
        async for events in log.follow():
            for message in status_messages(events):
                await call.send(message)

    async def solve(self, request: control_pb2.SolveRequest, call: ServerCall) -> control_pb2.SolveResponse:
        if not request.Ref:
            raise RpcError(Code.INVALID_ARGUMENT, "the build has no ref")
        check_solve(request)
        _use_built_in(request)
        job = Job(
            request,
            self._sessions,
            self._settings,
            self._root,
            in_flight=self._jobs.in_flight,
            shared_files=self._jobs.shared_files,
            exec_slots=self._jobs.exec_slots,
            networks=self._jobs.networks,
            trace_parent=call.metadata.get("traceparent"),
        )
        await self._jobs.add(job)
        response: dict[str, str] | None = None
        failure: RpcError | None = RpcError(Code.CANCELLED, "context canceled")
        try:
            job.start()
            if not request.Internal:
                self._history.begin(job)
            response = await self._build(job)
            failure = None
        except Exception as error:
            failure = with_stack(translate(error), error)
            self._log.debug(f"build {job.ref} failed: {failure}")
            raise
        finally:
            await asyncio.shield(self._end(job, response, failure))
        return control_pb2.SolveResponse(ExporterResponse=response)

    async def _end(self, job: Job, response: dict[str, str] | None, error: RpcError | None) -> None:
        try:
            await job.close()
            await self._history.finish(job, response=response, error=error, results=job.results)
        finally:
            self._jobs.remove(job)
            if job.grew:
                self._on_growth()

    async def _build(self, job: Job) -> dict[str, str]:
        request = job.request
        attests = parse_attests(request.FrontendAttrs)
        outputs, configs = outputs_of(request)
        version = compatibility_of(request.CompatibilityVersion)
        run = Run(
            base36_id(),
            started=job.started,
            compatibility=version,
            custom=self._settings.provenance,
        )
        imports = [CacheOption(item.Type, dict(item.Attrs)) for item in request.Cache.Imports]
        exports = [CacheOption(item.Type, dict(item.Attrs)) for item in request.Cache.Exports]
        if not request.Frontend and not request.HasField("Definition"):
            result = await job.returned
        else:

            async def prepare(bench: Workbench) -> None:
                await bench.import_caches(imports)

            await job.run(prepare)
            if request.Frontend:
                if request.Definition.ByteSize():
                    raise RpcError(
                        Code.INVALID_ARGUMENT, "cannot solve with Definition and Frontend specified"
                    )
                result = await self.gateway.frontends.solve(
                    job, request.Frontend, dict(request.FrontendAttrs), request.FrontendInputs, job.call
                )
            else:
                sent = Definition.unmarshal(request.Definition.SerializeToString())
                definition = await job.run(lambda bench: bench.policed(sent))
                if definition.ops:
                    job.call.solved.append(definition)
                result = SolveResult(ref=definition if definition.ops else None)
        result = msgspec.structs.replace(result, metadata={**result.metadata, **configs})
        ask_client = None
        if request.EnableSessionExporter:
            ask_client = SessionExporter(self._sessions, request.Session)
            refs = await known_refs(job, result)
            found, configs = checked_outputs(await ask_client.find(result.metadata, refs))
            outputs += found
            result = msgspec.structs.replace(result, metadata={**result.metadata, **configs})
        outputs = compatible_outputs(outputs, version, is_attested=bool(result.attestations or attests))
        if not outputs and not exports and request.Internal:
            return _frontend_metadata(result)
        epoch = natural(request.FrontendAttrs.get("build-arg:SOURCE_DATE_EPOCH", ""))

        async def export(bench: Workbench) -> BuildResult:
            try:
                return await bench.export(
                    result,
                    outputs,
                    cache_to=exports,
                    epoch=epoch,
                    platforms=_asked_platforms(request.FrontendAttrs),
                    on_digests=job.results.update,
                    call=job.call,
                    attests=attests,
                    run=run,
                    producers=self._jobs.producers,
                    resolve_mode=request.FrontendAttrs.get("image-resolve-mode", ""),
                    ignore_cache=request.FrontendAttrs.get("no-cache") == "",
                )
            finally:
                if not request.Internal:
                    job.manifests = _small_blobs(bench.store, job.results.values())
                    options = ProvenanceOptions(builder_id=_builder_id(attests))
                    job.provenance = bench.history_provenance(options)

        outcome = await job.run(export)
        response = {**_frontend_metadata(result), **_response(outcome, outputs)}
        if ask_client is not None:
            await ask_client.finalize(response)
        return response


def _use_built_in(request: control_pb2.SolveRequest) -> None:
    """The built-in frontend by its own name, where it is asked for as if it were an image."""
    attrs = request.FrontendAttrs
    is_replaced = any(
        name == "context:dockerfile.v0" or name.startswith("context:dockerfile.v0::") for name in attrs
    )
    if request.Frontend == "gateway.v0" and attrs.get("source") == "dockerfile.v0" and not is_replaced:
        request.Frontend = "dockerfile.v0"
        del attrs["source"]


def _small_blobs(store: Store, descriptors: Iterable[Mapping[str, object]]) -> dict[str, bytes]:
    """The blobs of `descriptors`, manifests and indexes, by digest, as far as the store has them."""
    found = {}
    for digest in {str(item.get("digest", "")) for item in descriptors}:
        with suppress(StoreError):
            found[digest] = store.content.read(digest)
    return found


def _builder_id(attests: Attests) -> str:
    return attests.provenance.builder_id if attests.provenance is not None else ""


def now_header() -> tuple[str, str]:
    """The daemon's clock, for clients whose own differs."""
    now = time.time_ns()
    text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now // 1_000_000_000))
    return "buildkit-current-timestamp", f"{text}.{now % 1_000_000_000:09d}Z"


def _asked_platforms(attrs: Mapping[str, str]) -> list[str] | None:
    """None for a question that gives no image."""
    if attrs.get("requestid"):
        return None
    return [text for text in attrs.get("platform", "").split(",") if text]


def _frontend_metadata(result: SolveResult) -> dict[str, str]:
    return {
        key: value.decode("utf-8", "replace")
        for key, value in result.metadata.items()
        if key.startswith("frontend.")
    }


def _response(outcome: BuildResult, outputs: list[Output]) -> dict[str, str]:
    response = {
        key: value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
        for key, value in outcome.metadata.items()
    }
    if outcome.digest is not None:
        response["containerimage.digest"] = outcome.digest
        raw = json.dumps(outcome.descriptor, separators=(",", ":")).encode()
        response["containerimage.descriptor"] = base64.b64encode(raw).decode()
    if outcome.config_digest is not None:
        response["containerimage.config.digest"] = outcome.config_digest
    if outcome.image_names:
        response["image.name"] = ",".join(outcome.image_names)
    return response
