"""Building on a daemon that speaks BuildKit's API, ours or a stock one.

One connection a node; each build has a session of its own on it, in which the daemon is served what the
build was given.
"""

from __future__ import annotations

import asyncio
import re
import time
from contextlib import AsyncExitStack, ExitStack
from typing import TYPE_CHECKING, Any

import msgspec

from anyarch.api.failure import build_error
from anyarch.api.proto import control_pb2 as control
from anyarch.api.rpc.server import deferred
from anyarch.api.rpc.status import RpcError
from anyarch.builder.solve_request import FRONTEND, remote_build
from anyarch.builder.status import events_of
from anyarch.engine.request import BuildResult
from anyarch.errors import BuilderError, CacheError, InvalidDigest, NotSupported
from anyarch.session.identity import base36_id
from anyarch.session.offer.files import directory_methods, upload_methods
from anyarch.session.offer.offer import offered, shared_key

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from anyarch.api.rpc.client import Channel
    from anyarch.api.rpc.server import Handler
    from anyarch.builder.solve_request import RemoteBuild
    from anyarch.engine.request import BuildRequest, CancelToken
    from anyarch.errors import AnyarchError
    from anyarch.solver.events import EventSink

__all__ = ["RemoteBuilder"]

_CONTROL = "/moby.buildkit.v1.Control"
_CONTENT = "/containerd.services.content.v1.Content"
_BRIDGE = "/moby.buildkit.v1.frontend.LLBBridge"
_BUILD_ID = "buildkit-controlapi-buildid"
_CLOCK = "buildkit-current-timestamp"
_STATUS_GRACE_S = 5.0  # after the build, for the end of its status stream
_BRIDGE_TRIES = 50
_CREDENTIALS = ("/moby.filesync.v1.Auth/Credentials",)
_SECRETS = ("/moby.buildkit.secrets.v1.Secrets/GetSecret",)
_AGENTS = ("/moby.sshforward.v1.SSH/CheckAgent", "/moby.sshforward.v1.SSH/ForwardAgent")


class RemoteBuilder:
    """Builds by `channel`; `label` names the daemon in errors. `close` closes the channel, and then what was
    given to do it with."""

    def __init__(
        self, channel: Channel, label: str, close: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        self._channel = channel
        self._label = label
        self._close = close

    async def close(self) -> None:
        self._channel.close()
        if self._close is not None:
            await self._close()

    async def list_workers(self) -> list[Any]:
        """Its `WorkerRecord`s, the default one first. Raises `AnyarchError`."""
        request = control.ListWorkersRequest()
        reply = await self._ask(f"{_CONTROL}/ListWorkers", request, control.ListWorkersResponse)
        return list(reply.record)

    async def version(self) -> str:
        """What its Info says. Raises `AnyarchError`."""
        reply = await self._ask(f"{_CONTROL}/Info", control.InfoRequest(), control.InfoResponse)
        return str(reply.buildkitVersion.version)

    async def disk_usage(self, request: control.DiskUsageRequest) -> list[Any]:
        """Its `UsageRecord`s."""
        reply = await self._ask(f"{_CONTROL}/DiskUsage", request, control.DiskUsageResponse)
        return list(reply.record)

    async def prune(self, request: control.PruneRequest, on_record: Callable[[Any], None]) -> None:
        """Remove by `request`; every record that went is told."""
        try:
            call = self._channel.start(f"{_CONTROL}/Prune")
            try:
                await call.send(request)
                call.end()
                async for record in call.messages(control.UsageRecord):
                    on_record(record)
            finally:
                call.cancel()
        except RpcError as error:
            raise build_error(error, where=self._label) from error

    async def history(self, request: control.BuildHistoryRequest) -> tuple[list[Any], str]:
        """The events of its build records up to now, and what its clock says (empty: it does not tell)."""
        try:
            call = self._channel.start(f"{_CONTROL}/ListenBuildHistory")
            try:
                await call.send(request)
                call.end()
                clock = (await call.wait_headers()).get(_CLOCK) or ""
                return [event async for event in call.messages(control.BuildHistoryEvent)], clock
            finally:
                call.cancel()
        except RpcError as error:
            raise build_error(error, where=self._label) from error

    async def delete_record(self, ref: str) -> None:
        """Let it forget a build."""
        request = control.UpdateBuildHistoryRequest(Ref=ref, Delete=True)
        await self._ask(f"{_CONTROL}/UpdateBuildHistory", request, control.UpdateBuildHistoryResponse)

    async def follow(self, ref: str, emit: EventSink) -> None:
        """Tell the progress of a build, one that is over too. Raises `AnyarchError`."""
        try:
            await self._status(ref, emit)
        except RpcError as error:
            raise build_error(error, where=self._label) from error

    async def read_blob(self, digest: str) -> bytes:
        """What it keeps under a digest."""
        from anyarch.api.proto import content_pb2 as content

        try:
            call = self._channel.start(f"{_CONTENT}/Read")
            try:
                await call.send(content.ReadContentRequest(digest=digest))
                call.end()
                parts = [part.data async for part in call.messages(content.ReadContentResponse)]
            finally:
                call.cancel()
        except RpcError as error:
            raise build_error(error, where=self._label) from error
        return b"".join(parts)

    async def build(
        self, request: BuildRequest, on_event: EventSink, cancel: CancelToken | None = None
    ) -> BuildResult:
        """Build and write all outputs. Raises `AnyarchError`; `Canceled` when `cancel` was set."""
        from anyarch.engine.running import run_async

        return await run_async(lambda emit: self._build(request, emit), on_event, cancel)

    async def _ask(self, path: str, request: Any, reply: Any) -> Any:
        try:
            return await self._channel.unary(path, request, reply)
        except RpcError as error:
            raise build_error(error, where=self._label) from error

    async def _build(self, request: BuildRequest, emit: EventSink) -> BuildResult:
        failures: list[AnyarchError] = []
        with ExitStack() as held:
            build = await asyncio.to_thread(remote_build, request, held)
            if "stage-platform" in build.attrs and "anyarch" not in await self.version():
                raise NotSupported(
                    f"{self._label}: --stage-platform is known to daemons of anyarch only, others ignore it",
                    hint="leave out --stage-platform, and stagePlatform in the configuration file",
                )
            if request.proxy_network and _is_before_proxies(await self.version()):
                raise NotSupported(
                    f"{self._label}: --proxy-network takes BuildKit 0.32, older daemons ignore it",
                    hint="leave out --proxy-network, or update the builder",
                )
            async with AsyncExitStack() as agents:
                methods = _methods(build, agents, failures)
                session, ref = base36_id(), request.ref or base36_id()
                key = shared_key(build.directories["context"]) if "context" in build.directories else ""
                warnings = _WarningCounter(emit)
                try:
                    async with offered(self._channel, methods, session_id=session, key=key):
                        solve = _solve_request(build, request, session=session, ref=ref)
                        if request.call in ("", "build"):
                            response = await self._solve(solve, warnings)
                            told = await self._provenance(ref, request.metadata_provenance, emit)
                        else:
                            return await self._answer(solve, build, warnings)
                except RpcError as error:
                    # What went wrong on this side is told better here than the daemon can.
                    raise failures[0] if failures else build_error(error, where=self._label) from error
                if build.exported_caches and "cache.manifest" in response:
                    await asyncio.to_thread(_name_caches, build, response["cache.manifest"])
        result = _result(response, warnings.count)
        return msgspec.structs.replace(result, metadata={**result.metadata, **told})

    async def _provenance(self, ref: str, mode: str, emit: EventSink) -> dict[str, Any]:
        """What the record of a build that is over tells of how it was made, for the metadata file."""
        if not mode:
            return {}
        from anyarch.builder.provenance import record_provenance
        from anyarch.solver.work import Work

        step = Work(emit, "resolving provenance for metadata file")
        try:
            found = await record_provenance(self, ref, is_max=mode == "max")
        except BaseException as error:
            step.done(str(error) or "context canceled")
            raise
        step.done()
        return found

    async def _solve(self, request: control.SolveRequest, emit: EventSink) -> dict[str, str]:
        """One Control.Solve with its progress."""
        progress = asyncio.create_task(self._follow(request.Ref, emit))
        try:
            reply = await self._channel.unary(f"{_CONTROL}/Solve", request, control.SolveResponse)
            return dict(reply.ExporterResponse)
        finally:
            await _finish(progress)

    async def _follow(self, ref: str, emit: EventSink) -> None:
        try:
            await self._status(ref, emit)
        except RpcError:
            return  # the build's own call says what happened

    async def _status(self, ref: str, emit: EventSink) -> None:
        call = self._channel.start(f"{_CONTROL}/Status")
        try:
            await call.send(control.StatusRequest(Ref=ref))
            call.end()
            headers = await call.wait_headers()
            skew = _skew(headers.get(_CLOCK))
            async for message in call.messages(control.StatusResponse):
                for event in events_of(message, skew_s=skew):
                    emit(event)
        finally:
            call.cancel()

    async def _answer(
        self, solve: control.SolveRequest, build: RemoteBuild, warnings: _WarningCounter
    ) -> BuildResult:
        """A question about the Dockerfile: the frontend is run through the gateway, whose result has the
        answer."""
        from anyarch.api.proto import gateway_pb2 as gateway

        solve.Frontend = ""
        solve.Internal = True
        metadata = [(_BUILD_ID, solve.Ref)]
        waiting = asyncio.create_task(self._solve(solve, warnings))
        try:
            await self._ping(metadata, waiting)
            ask = gateway.SolveRequest(
                Frontend=FRONTEND, FrontendOpt=build.attrs, allowResultReturn=True, allowResultArrayRef=True
            )
            answer = await self._channel.unary(
                f"{_BRIDGE}/Solve", ask, gateway.SolveResponse, metadata=metadata
            )
            done = gateway.ReturnRequest(result=gateway.Result(ref=gateway.Ref()))  # daemons fall over none
            await self._channel.unary(f"{_BRIDGE}/Return", done, gateway.ReturnResponse, metadata=metadata)
            await waiting
        finally:
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
        found = {name: value.decode("utf-8", "replace") for name, value in answer.result.metadata.items()}
        return BuildResult(metadata=found, warnings=warnings.count)

    async def _ping(self, metadata: list[tuple[str, str]], waiting: asyncio.Task[Any]) -> None:
        """Until the daemon knows the build, or has refused it."""
        from anyarch.api.proto import gateway_pb2 as gateway

        for attempt in range(_BRIDGE_TRIES):
            try:
                await self._channel.unary(
                    f"{_BRIDGE}/Ping", gateway.PingRequest(), gateway.PongResponse, metadata=metadata
                )
                return
            except RpcError:
                if waiting.done() or attempt == _BRIDGE_TRIES - 1:
                    raise
            await asyncio.sleep(0.05)


class _WarningCounter:
    """Passes events on and counts the warnings."""

    def __init__(self, emit: EventSink) -> None:
        self._emit = emit
        self.count = 0

    def __call__(self, event: Any) -> None:
        from anyarch.solver.events import WarningEvent

        self.count += isinstance(event, WarningEvent)
        self._emit(event)


async def _finish(progress: asyncio.Task[None]) -> None:
    try:
        await asyncio.wait_for(progress, _STATUS_GRACE_S)
    except TimeoutError:
        return  # a daemon that does not end its stream; the build itself is over


def _methods(build: RemoteBuild, stack: AsyncExitStack, failures: list[AnyarchError]) -> dict[str, Handler]:
    def credentials() -> dict[str, Handler]:
        from anyarch.registry.credentials import Credentials
        from anyarch.session.offer.credentials import credential_methods

        return credential_methods(Credentials())

    def secrets() -> dict[str, Handler]:
        from anyarch.session.offer.lent import secret_methods

        return secret_methods(build.lent)

    def agents() -> dict[str, Handler]:
        from anyarch.session.offer.lent import agent_methods

        held = ExitStack()
        stack.push_async_callback(asyncio.to_thread, held.close)
        return agent_methods(build.lent, held)

    methods = {
        **directory_methods(build.directories),
        **deferred(_CREDENTIALS, credentials),
        **deferred(_SECRETS, secrets),
        **deferred(_AGENTS, agents),
    }
    if build.uploads:
        methods |= upload_methods(build.uploads)
    if build.targets:
        from anyarch.session.offer.outputs import output_methods

        methods |= output_methods(build.targets, failures)
    if build.stores:
        from anyarch.session.offer.content import content_methods

        methods |= content_methods(build.stores)
    return methods


def _is_before_proxies(version: str) -> bool:
    """Of a release; what was built of sources may call itself anything."""
    found = re.match(r"v?(\d+)\.(\d+)", version)
    return found is not None and (0, 0) < (int(found[1]), int(found[2])) < (0, 32)


def _solve_request(
    build: RemoteBuild, request: BuildRequest, *, session: str, ref: str
) -> control.SolveRequest:
    solve = control.SolveRequest(
        Ref=ref,
        Session=session,
        Frontend=FRONTEND,
        FrontendAttrs=build.attrs,
        Entitlements=sorted(build.lent.entitlements),
        Exporters=build.exporters,
        Cache=control.CacheOptions(Exports=build.cache_exports, Imports=build.cache_imports),
        ProxyNetwork=request.proxy_network,
    )
    if build.exporters:  # what daemons before several outputs read
        solve.ExporterDeprecated = build.exporters[0].Type
        for name, value in build.exporters[0].Attrs.items():
            solve.ExporterAttrsDeprecated[name] = value
    return solve


def _result(response: dict[str, str], warnings: int) -> BuildResult:
    descriptor = _decoded(response.pop("containerimage.descriptor", ""))
    names = response.pop("image.name", "")
    digest = _digest(response.pop("containerimage.digest", ""))
    config = _digest(response.pop("containerimage.config.digest", ""))
    response.pop("cache.manifest", None)
    return BuildResult(
        digest=digest,
        config_digest=config,
        descriptor=descriptor,
        image_names=tuple(names.split(",")) if names else (),
        metadata=dict(response),
        warnings=warnings,
    )


def _digest(text: str) -> str | None:
    """Raises `BuilderError` for what is none: others take its word."""
    if not text:
        return None
    from anyarch.spec.digest import Digest

    try:
        return str(Digest.parse(text))
    except InvalidDigest as error:
        raise BuilderError(f"the builder answers with what is no digest: {error.message}") from None


def _decoded(text: str) -> dict[str, Any] | None:
    if not text:
        return None
    import base64
    import binascii

    try:
        value = msgspec.json.decode(base64.b64decode(text, validate=True))
    except (ValueError, binascii.Error):
        return None
    return value if isinstance(value, dict) else None


def _skew(text: str) -> float:
    """How far the daemon's clock is ahead, from the time it sent just now."""
    from anyarch.spec.timestamp import parse_time

    told = parse_time(text) if text else None
    return told - time.time() if told is not None else 0.0


def _name_caches(build: RemoteBuild, manifest: str) -> None:
    """Let the index of each exported layout name the new cache."""
    from anyarch.builder.layout_index import set_tag

    try:
        descriptor = msgspec.json.decode(manifest)
    except msgspec.DecodeError as error:
        raise CacheError(f"the builder names a cache that is no descriptor: {error}") from None
    for directory, tag in build.exported_caches:
        set_tag(directory, descriptor, tag)
