"""The service `moby.buildkit.v1.frontend.LLBBridge`: what a client's own frontend asks of the build that it
leads."""

from __future__ import annotations

import asyncio
import json
import posixpath
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

import msgspec

from anyarch.api.proto import gateway_pb2, llb_pb2
from anyarch.api.rpc.server import unary
from anyarch.api.rpc.status import Code, RpcError
from anyarch.attest.request import FrontendRequest
from anyarch.daemon.caps import frontend_caps, llb_caps
from anyarch.daemon.containerfiles import MAX_FILE, container_file_methods, read_range, stat_message
from anyarch.daemon.failure import error_of_status
from anyarch.engine.request import CacheOption
from anyarch.engine.workbench import AttestationRef, SolveResult
from anyarch.errors import AnyarchError, BuildError, error_context
from anyarch.exporter.attestation import Subject
from anyarch.llb.definition import Definition
from anyarch.llb.ops import SourceOp
from anyarch.solver.events import WarningEvent
from anyarch.spec.glob import match
from anyarch.spec.platform import Platform, host_platform
from anyarch.worker.result import LocalResult, SnapshotResult

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
    from typing import Any

    from anyarch.api.proto import sourcepolicy_pb2, worker_pb2
    from anyarch.api.rpc.server import Handler, ServerCall
    from anyarch.daemon.job import Job, Jobs, KnownRef
    from anyarch.daemon.policy import JobPolicy
    from anyarch.engine.calls import FrontendCall
    from anyarch.engine.gateway import EngineRef
    from anyarch.engine.workbench import Workbench
    from anyarch.worker.result import Result

__all__ = ["Bridge", "Gateway", "frontend_inputs", "platform_of"]

T = TypeVar("T")

_PREFIX = "/moby.buildkit.v1.frontend.LLBBridge/"
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


class Gateway:
    """`workers` gives the records for Ping, `platforms` what steps can be run for."""

    def __init__(
        self,
        jobs: Jobs,
        workers: Callable[[], Coroutine[Any, Any, worker_pb2.WorkerRecord]],
        platforms: Callable[[], list[Platform]],
    ) -> None:
        self._jobs = jobs
        self._workers = workers
        self._platforms = platforms
        self._bridge_of_all: Bridge | None = None

    def methods(self) -> dict[str, Handler]:
        table: dict[str, Handler] = {
            "Ping": unary(gateway_pb2.PingRequest, self.ping),
            "Solve": unary(gateway_pb2.SolveRequest, self.solve),
            "ResolveImageConfig": unary(gateway_pb2.ResolveImageConfigRequest, self.resolve_image_config),
            "ResolveSourceMeta": unary(gateway_pb2.ResolveSourceMetaRequest, self.resolve_source_meta),
            "ReadFile": unary(gateway_pb2.ReadFileRequest, self.read_file),
            "ReadDir": unary(gateway_pb2.ReadDirRequest, self.read_dir),
            "StatFile": unary(gateway_pb2.StatFileRequest, self.stat_file),
            "NewContainer": unary(gateway_pb2.NewContainerRequest, self.new_container),
            "ReleaseContainer": unary(gateway_pb2.ReleaseContainerRequest, self.release_container),
            "ExecProcess": self.exec_process,
            **container_file_methods(self._job),
            "Evaluate": unary(gateway_pb2.EvaluateRequest, self.evaluate),
            "Inputs": unary(gateway_pb2.InputsRequest, self.inputs),
            "Warn": unary(gateway_pb2.WarnRequest, self.warn),
            "Return": unary(gateway_pb2.ReturnRequest, self.return_),
        }
        return {_PREFIX + name: handler for name, handler in table.items()}

    def bound(self, bridge: Bridge) -> Gateway:
        """The same for just one frontend, whose calls name no build."""
        made = Gateway(self._jobs, self._workers, self._platforms)
        made._bridge_of_all = bridge
        return made

    async def _bridge(self, call: ServerCall) -> Bridge:
        if self._bridge_of_all is not None:
            return self._bridge_of_all
        build = call.metadata.get(_BUILD_ID)
        if not build:
            raise RpcError(Code.INVALID_ARGUMENT, "no buildid found in context")
        job = await self._jobs.get(build)
        return Bridge(job, job.returned, job.request.FrontendInputs, job.call)

    async def _job(self, call: ServerCall) -> Job:
        return (await self._bridge(call)).job

    async def ping(self, request: gateway_pb2.PingRequest, call: ServerCall) -> gateway_pb2.PongResponse:
        await self._bridge(call)
        return gateway_pb2.PongResponse(
            FrontendAPICaps=frontend_caps(), LLBCaps=llb_caps(), Workers=[await self._workers()]
        )

    # results ---------------------------------------------------------------------------------------

    async def solve(self, request: gateway_pb2.SolveRequest, call: ServerCall) -> gateway_pb2.SolveResponse:
        bridge = await self._bridge(call)
        job = bridge.job
        imports = [CacheOption(item.Type, dict(item.Attrs)) for item in request.CacheImports]

        async def prepare(bench: Workbench) -> None:
            await bench.import_caches(imports)

        await job.run(prepare)
        if request.Frontend:
            if request.Definition.ByteSize():
                raise RpcError(Code.INVALID_ARGUMENT, "cannot solve with Definition and Frontend specified")
            found = await self.frontend(
                job, request.Frontend, dict(request.FrontendOpt), request.FrontendInputs, bridge.call
            )
        else:
            sent = Definition.unmarshal(request.Definition.SerializeToString())

            async def police(bench: Workbench) -> Definition:
                return await bench.policed(sent, _policy(job, request.SourcePolicies))

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
        with _told_in_full(job, definitions):
            refs = await job.run(work)
        return gateway_pb2.SolveResponse(result=_result(job, found, refs))

    async def known_refs(self, job: Job, found: SolveResult) -> list[str]:
        """Ids under which a client can look into a result."""
        definitions = found.refs.values() if found.refs is not None else [found.ref]
        wanted = [definition for definition in definitions if definition is not None]

        async def work(bench: Workbench) -> list[EngineRef]:
            return [bench.load(definition) for definition in wanted]

        refs = await job.run(work)
        return [job.know(ref, definition) for ref, definition in zip(refs, wanted, strict=True)]

    async def worker_json(self) -> str:
        """The worker as frontends in images are told of it."""
        record = await self._workers()
        platforms = [
            {
                key: value
                for key, value in (
                    ("architecture", item.Architecture),
                    ("os", item.OS),
                    ("variant", item.Variant),
                )
                if value
            }
            for item in record.platforms
        ]
        found = {"id": record.ID, "labels": dict(record.Labels), "platforms": platforms, "gcPolicy": None}
        return json.dumps([found])

    async def frontend(
        self,
        job: Job,
        name: str,
        attrs: dict[str, str],
        inputs: Mapping[str, llb_pb2.Definition],
        caller: FrontendCall,
    ) -> SolveResult:
        """What a frontend makes that `caller` asks. Raises `RpcError` for one that there is not, and what it
        raises."""
        from anyarch.daemon.frontend import run_image
        from anyarch.engine.workbench import ForeignSyntax

        if name == "gateway.v0" and attrs.get("source", "").startswith("dockerfile.v0"):
            name = "dockerfile.v0"
            attrs = {key: value for key, value in attrs.items() if key != "source"}
        definitions = frontend_inputs(inputs)
        call = caller.call(FrontendRequest(name, attrs, definitions))
        if name == "gateway.v0":
            return await run_image(job, self, attrs, inputs, call)
        if name != "dockerfile.v0":
            raise RpcError(Code.UNKNOWN, f"invalid frontend: {name}")
        caches = cache_imports(attrs)
        platforms = await asyncio.to_thread(self._platforms)

        async def work(bench: Workbench) -> SolveResult:
            await bench.import_caches(caches)
            return await bench.dockerfile(
                attrs, session=job.request.Session, platforms=platforms, inputs=definitions, call=call
            )

        try:
            return await job.run(work)
        except ForeignSyntax as foreign:
            forwarded = {**attrs, "source": foreign.reference, "cmdline": foreign.cmdline}
            inner = call.call(FrontendRequest("gateway.v0", forwarded, definitions))
            with error_context(source=foreign.source):
                return await run_image(job, self, forwarded, inputs, inner)

    async def return_(
        self, request: gateway_pb2.ReturnRequest, call: ServerCall
    ) -> gateway_pb2.ReturnResponse:
        bridge = await self._bridge(call)
        job, returned = bridge.job, bridge.returned
        if returned.done():
            raise RpcError(Code.FAILED_PRECONDITION, "the build has its result already")
        if request.HasField("error"):
            returned.set_exception(error_of_status(request.error))
            returned.exception()
            return gateway_pb2.ReturnResponse()
        result = request.result

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
                found = SolveResult(
                    ref=definition(gateway_pb2.Ref(id=result.refDeprecated)), metadata=metadata
                )
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
        found = msgspec.structs.replace(found, attestations=attestations)
        returned.set_result(found)
        return gateway_pb2.ReturnResponse()

    async def evaluate(
        self, request: gateway_pb2.EvaluateRequest, call: ServerCall
    ) -> gateway_pb2.EvaluateResponse:
        job = await self._job(call)
        known = job.known(request.Ref)

        async def work(bench: Workbench) -> None:
            if known.ref is not None:
                await known.ref.evaluate()

        with _told_in_full(job, [known.definition]):
            await job.run(work)
        return gateway_pb2.EvaluateResponse()

    async def inputs(
        self, request: gateway_pb2.InputsRequest, call: ServerCall
    ) -> gateway_pb2.InputsResponse:
        bridge = await self._bridge(call)
        return gateway_pb2.InputsResponse(Definitions=bridge.inputs)

    # files -----------------------------------------------------------------------------------------

    async def _of_ref(
        self, call: ServerCall, identity: str, work: Callable[[EngineRef], Coroutine[Any, Any, T]]
    ) -> T:
        job = await self._job(call)
        known = job.known(identity)

        async def on_bench(bench: Workbench) -> T:
            return await work(_ref(bench, known))

        with _told_in_full(job, [known.definition]):
            return await job.run(on_bench)

    async def read_file(
        self, request: gateway_pb2.ReadFileRequest, call: ServerCall
    ) -> gateway_pb2.ReadFileResponse:
        offset, length = read_range(request)

        async def read(ref: EngineRef) -> bytes:
            return await ref.read_file(request.FilePath, offset=offset, length=length)

        data = await self._of_ref(call, request.Ref, read)
        if len(data) > MAX_FILE:
            raise RpcError(Code.RESOURCE_EXHAUSTED, f"{request.FilePath} is too large for one message")
        return gateway_pb2.ReadFileResponse(Data=data)

    async def read_dir(
        self, request: gateway_pb2.ReadDirRequest, call: ServerCall
    ) -> gateway_pb2.ReadDirResponse:
        found = await self._of_ref(call, request.Ref, lambda ref: ref.read_dir(request.DirPath))
        pattern = request.IncludePattern
        entries = [
            stat_message(item.stat, item.name) for item in found if not pattern or match(pattern, item.name)
        ]
        return gateway_pb2.ReadDirResponse(entries=entries)

    async def stat_file(
        self, request: gateway_pb2.StatFileRequest, call: ServerCall
    ) -> gateway_pb2.StatFileResponse:
        found = await self._of_ref(call, request.Ref, lambda ref: ref.stat_file(request.Path))
        name = posixpath.basename(request.Path.rstrip("/")) or "/"
        return gateway_pb2.StatFileResponse(stat=stat_message(found, name))

    # containers ------------------------------------------------------------------------------------

    async def new_container(
        self, request: gateway_pb2.NewContainerRequest, call: ServerCall
    ) -> gateway_pb2.NewContainerResponse:
        from anyarch.daemon.process import exec_op
        from anyarch.engine.container import Container

        job = await self._job(call)
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
        self, request: gateway_pb2.ReleaseContainerRequest, call: ServerCall
    ) -> gateway_pb2.ReleaseContainerResponse:
        job = await self._job(call)
        container = job.containers.pop(request.ContainerID, None)
        if container is None:
            raise RpcError(Code.NOT_FOUND, f"container details for {request.ContainerID} not found")

        async def work(bench: Workbench) -> None:
            await container.release()
            if container.failure is not None:  # it is released all the same
                raise container.failure

        await job.run(work)
        return gateway_pb2.ReleaseContainerResponse()

    async def exec_process(self, call: ServerCall) -> None:
        from anyarch.daemon.process import exec_processes

        job = await self._job(call)
        call.send_headers()
        try:
            await exec_processes(call, job)
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None

    # sources ---------------------------------------------------------------------------------------

    async def resolve_image_config(
        self, request: gateway_pb2.ResolveImageConfigRequest, call: ServerCall
    ) -> gateway_pb2.ResolveImageConfigResponse:
        bridge = await self._bridge(call)
        job = bridge.job
        layout = (request.StoreID or "") if request.ResolverType == 1 else ""

        async def work(bench: Workbench) -> gateway_pb2.ResolveImageConfigResponse:
            from anyarch.engine.sourcepolicy import policed_image

            name = request.Ref
            platform = platform_of(request.Platform) if request.HasField("Platform") else None
            policy = _policy(job, request.SourcePolicies)
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
        self, request: gateway_pb2.ResolveSourceMetaRequest, call: ServerCall
    ) -> gateway_pb2.ResolveSourceMetaResponse:
        from anyarch.daemon.sourcemeta import resolve

        bridge = await self._bridge(call)
        job = bridge.job

        async def work(bench: Workbench) -> gateway_pb2.ResolveSourceMetaResponse:
            policy = _policy(job, request.SourcePolicies)
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

    async def warn(self, request: gateway_pb2.WarnRequest, call: ServerCall) -> gateway_pb2.WarnResponse:
        job = await self._job(call)
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


def _policy(job: Job, more: Sequence[sourcepolicy_pb2.Policy]) -> JobPolicy | None:
    """What decides on the sources of one request. Raises `UsageError`."""
    assert job.policy is not None  # with the workbench, which whoever asks has
    policy = job.policy.extended(more) if more else job.policy
    return None if policy.is_empty else policy


def cache_imports(attrs: dict[str, str]) -> list[CacheOption]:
    """The build caches that a Dockerfile's attributes name: `cache-imports` (JSON), or `cache-from`, a comma
    list of images. Raises `RpcError`."""
    text = attrs.get("cache-imports", "")
    if text:
        try:
            items = json.loads(text)
            return [
                CacheOption(str(item["Type"]), {str(k): str(v) for k, v in (item.get("Attrs") or {}).items()})
                for item in items
            ]
        except (ValueError, TypeError, KeyError, AttributeError):
            raise RpcError(Code.INVALID_ARGUMENT, f"failed to unmarshal cache-imports ({text!r})") from None
    return [CacheOption("registry", {"ref": name}) for name in attrs.get("cache-from", "").split(",") if name]


def frontend_inputs(messages: Mapping[str, llb_pb2.Definition]) -> dict[str, Definition]:
    """Raises `RpcError` for one that is empty, as Go sends what it has not."""
    inputs = {name: Definition.unmarshal(item.SerializeToString()) for name, item in messages.items()}
    if not all(definition.ops for definition in inputs.values()):
        raise RpcError(Code.INVALID_ARGUMENT, "invalid nil input definition to definition op")
    return inputs


@contextmanager
def _told_in_full(job: Job, definitions: Iterable[Definition | None]) -> Iterator[None]:
    """Steps of `definitions` that fail are told with what is left of them."""
    from anyarch.daemon.solveerror import solve_failure

    try:
        yield
    except AnyarchError as error:
        raise solve_failure(job, error, definitions) from error


def _ref(bench: Workbench, known: KnownRef) -> EngineRef:
    return known.ref if known.ref is not None else bench.load(Definition())


def _result(job: Job, found: SolveResult, refs: dict[str, EngineRef | None]) -> gateway_pb2.Result:
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


def platform_of(message: llb_pb2.Platform) -> Platform:
    """What is not said is this machine's."""
    import msgspec

    host = host_platform()
    variant = message.Variant if message.Architecture else host.variant
    made = Platform.make(message.OS or host.os, message.Architecture or host.architecture, variant)
    return msgspec.structs.replace(made, os_version=message.OSVersion, os_features=tuple(message.OSFeatures))
