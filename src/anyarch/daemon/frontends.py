"""The frontends that a build can ask: Dockerfiles, which are built in, and images."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

from anyarch.api.rpc.status import Code, RpcError
from anyarch.attest.request import FrontendRequest
from anyarch.daemon.bridge import Bridge
from anyarch.engine.request import CacheOption
from anyarch.errors import error_context
from anyarch.llb.definition import Definition

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping
    from typing import Any

    from anyarch.api.proto import llb_pb2, worker_pb2
    from anyarch.api.rpc.server import Handler
    from anyarch.daemon.job import Job
    from anyarch.engine.calls import FrontendCall
    from anyarch.engine.workbench import SolveResult, Workbench
    from anyarch.spec.platform import Platform

__all__ = ["Frontends"]


class Frontends:
    """`workers` gives the record that frontends in images are told of, `platforms` what steps can be run for,
    `serve` the methods by which such a frontend asks."""

    def __init__(
        self,
        workers: Callable[[], Coroutine[Any, Any, worker_pb2.WorkerRecord]],
        platforms: Callable[[], list[Platform]],
        serve: Callable[[Bridge], dict[str, Handler]],
    ) -> None:
        self._workers = workers
        self._platforms = platforms
        self._serve = serve

    async def solve(
        self,
        job: Job,
        name: str,
        attrs: dict[str, str],
        inputs: Mapping[str, llb_pb2.Definition],
        caller: FrontendCall,
    ) -> SolveResult:
        """What a frontend makes that `caller` asks. Raises `RpcError` for one that there is not, and what it
        raises."""
        from anyarch.engine.workbench import ForeignSyntax

        if name == "gateway.v0" and attrs.get("source", "").startswith("dockerfile.v0"):
            name = "dockerfile.v0"
            attrs = {key: value for key, value in attrs.items() if key != "source"}
        definitions = _frontend_inputs(inputs)
        call = caller.call(FrontendRequest(name, attrs, definitions))
        if name == "gateway.v0":
            return await self._image(job, attrs, inputs, call)
        if name != "dockerfile.v0":
            raise RpcError(Code.UNKNOWN, f"invalid frontend: {name}")
        caches = _cache_imports(attrs)
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
                return await self._image(job, forwarded, inputs, inner)

    async def _image(
        self,
        job: Job,
        attrs: dict[str, str],
        inputs: Mapping[str, llb_pb2.Definition],
        call: FrontendCall,
    ) -> SolveResult:
        from anyarch.daemon.frontendimage import run_image

        returned: asyncio.Future[SolveResult] = asyncio.get_running_loop().create_future()
        methods = self._serve(Bridge(job, returned, inputs, call))
        return await run_image(job, methods, returned, attrs, await self._worker_json(), call)

    async def _worker_json(self) -> str:
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


def _cache_imports(attrs: dict[str, str]) -> list[CacheOption]:
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


def _frontend_inputs(messages: Mapping[str, llb_pb2.Definition]) -> dict[str, Definition]:
    """Raises `RpcError` for one that is empty, as Go sends what it has not."""
    inputs = {name: Definition.unmarshal(item.SerializeToString()) for name, item in messages.items()}
    if not all(definition.ops for definition in inputs.values()):
        raise RpcError(Code.INVALID_ARGUMENT, "invalid nil input definition to definition op")
    return inputs
