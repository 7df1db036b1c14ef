"""The BuildKit inside a docker engine: every docker context is a builder of it. Results go into the engine's
own images.

What it can do depends on the engine's image store: with that of containerd everything, with the classic one a
single platform, no archives and no caches elsewhere but inline.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec

from anyarch.builder.docker_api import DockerApi, EngineError
from anyarch.builder.driver import NodeState, refuse_unknown
from anyarch.builder.wire import open_client
from anyarch.engine.options import attests_by_default
from anyarch.engine.request import Output
from anyarch.errors import NodeLost, NotSupported, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from anyarch.builder.driver import DriverSetup, NodeClient, WorkerInfo
    from anyarch.builder.stream import ByteStream
    from anyarch.builder.wire import WireClient
    from anyarch.engine.request import BuildRequest, BuildResult, CancelToken
    from anyarch.solver.events import EventSink

__all__ = ["DockerDriver", "engine_outputs", "open_driver"]

_CONTAINERD_LABEL = "org.mobyproject.buildkit.worker.snapshotter"
_SWITCH = "Switch to a different driver, or turn on the containerd image store, and try again."


def open_driver(setup: DriverSetup) -> DockerDriver:
    """Raises `UsageError`."""
    if setup.node.files:
        raise UsageError(
            "setting config file is not supported for docker driver, use dockerd configuration file"
        )
    refuse_unknown(setup.options, (), "docker")
    return DockerDriver(setup)


class DockerDriver:
    default_load = True

    def __init__(self, setup: DriverSetup) -> None:
        self._setup = setup
        context = setup.docker.resolve(setup.node.endpoint)
        self._api = DockerApi(context, setup.env, timeout_s=setup.connect_timeout_s)

    async def state(self) -> NodeState:
        await self._api.version()
        return NodeState(status="running")

    async def start(self, log: Callable[[str], None]) -> None:
        """It runs whenever the engine does."""

    async def stop(self) -> None:
        """It ends with the engine."""

    async def remove(self, *, keep_state: bool, keep_daemon: bool) -> None:
        """It is not an instance that could be removed."""

    async def client(self) -> NodeClient:
        return _DockerClient(await open_client(self.dial, f"node {self._setup.node.name}"), self._api)

    async def dial(self) -> ByteStream:
        try:
            return await self._api.hijack("/grpc", protocol="h2c")
        except EngineError as error:
            raise NodeLost(error.message) from None


class _DockerClient:
    def __init__(self, inner: WireClient, api: DockerApi) -> None:
        self.wire = inner
        self._api = api

    async def workers(self) -> list[WorkerInfo]:
        return await self.wire.workers()

    async def version(self) -> str:
        """That of the engine where its BuildKit does not tell its own."""
        try:
            return await self.wire.version()
        except NotSupported:
            return str((await self._api.version()).get("Version") or "")

    async def close(self) -> None:
        await self.wire.close()

    async def build(
        self, request: BuildRequest, on_event: EventSink, cancel: CancelToken | None
    ) -> BuildResult:
        workers = await self.workers()
        has_containerd = any(_CONTAINERD_LABEL in worker.labels for worker in workers)
        outputs, pushed = engine_outputs(request, has_containerd=has_containerd)
        attests = request.attests
        if has_containerd and attests_by_default(request):
            attests = {**attests, "provenance": {"mode": "min", "inline-only": "true"}}
        asked = msgspec.structs.replace(request, outputs=outputs, attests=attests, default_provenance=False)
        result = await self.wire.build(asked, on_event, cancel)
        digest = ""
        for name in pushed:
            digest = await self._push(name) or digest
        if digest:
            result = msgspec.structs.replace(
                result, digest=digest, config_digest=result.config_digest or result.digest, descriptor=None
            )
        return result

    async def _push(self, name: str) -> str:
        """The engine pushes what it has; the digest."""
        from anyarch.builder.driver.container import engine_auth
        from anyarch.registry.credentials import Credentials
        from anyarch.spec.reference import Reference

        reference = Reference.parse(name)
        found = await asyncio.to_thread(Credentials().get, reference.domain, reference.path)
        auth = engine_auth(found, reference.domain) if found is not None else None
        return await self._api.push(reference.name, reference.tag or "latest", auth, lambda text: None)


def engine_outputs(
    request: BuildRequest, *, has_containerd: bool
) -> tuple[tuple[Output, ...], tuple[str, ...]]:
    """The outputs for the engine's BuildKit, whose exporter `moby` puts images into the engine; and the names
    that the engine is to push then. Raises `NotSupported`."""
    if not has_containerd:
        if request.attests:
            raise NotSupported(
                f"Attestation is not supported for the docker driver.\n{_SWITCH}\nLearn more at "
                "https://docs.docker.com/go/attestations/"
            )
        if len(request.platforms) > 1:
            raise NotSupported(
                f"Multi-platform build is not supported for the docker driver.\n{_SWITCH}\nLearn more at "
                "https://docs.docker.com/go/build-multi-platform/"
            )
        if any(option.type not in ("inline",) for option in request.cache_to):
            raise NotSupported(
                f"Cache export is not supported for the docker driver.\n{_SWITCH}\nLearn more at "
                "https://docs.docker.com/go/build-cache-backends/"
            )
    outputs, pushed = [], []
    for output in request.outputs:
        kind = output.type
        if kind in ("oci", "docker") and not has_containerd and (kind == "oci" or output.dest is not None):
            title = "OCI" if kind == "oci" else "Docker"
            raise NotSupported(
                f"{title} exporter is not supported for the docker driver.\n{_SWITCH}\nLearn more at "
                "https://docs.docker.com/go/build-exporters/"
            )
        if kind in ("image", "registry") or (kind == "docker" and output.dest is None):
            attrs = dict(output.attrs)
            is_push = attrs.pop("push", "true" if kind == "registry" else "false") in ("true", "1")
            if attrs.get("push-by-digest") in ("true", "1"):
                raise NotSupported(
                    "push-by-digest is currently not implemented for docker driver, please create a new "
                    "builder instance"
                )
            attrs.pop("unpack", None)
            if request.tags:
                attrs["name"] = ",".join(request.tags)
            if has_containerd:
                attrs["prefer-image-digest"] = "true"
            if is_push:
                names = [name for name in attrs.get("name", "").split(",") if name]
                if not names:
                    raise UsageError("tag is needed when pushing to registry")
                pushed += names
            outputs.append(Output("moby", None, attrs))
        else:
            outputs.append(output)
    return tuple(outputs), tuple(pushed)
