"""Frontends in images: a container whose standard input and output are a connection, on which it asks of its
build what a client that leads one does."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

from anyarch.api.rpc.pipe import pipe_link
from anyarch.api.rpc.server import Server
from anyarch.api.rpc.status import Code, RpcError
from anyarch.daemon.failure import translate
from anyarch.engine.container import Container, bind
from anyarch.frontend.gateway import check_caps
from anyarch.llb.ops import Meta, NetMode
from anyarch.llb.source import image
from anyarch.spec.codec import json_decoder
from anyarch.spec.oci import ImageConfig

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anyarch.api.rpc.server import Handler
    from anyarch.daemon.job import Job
    from anyarch.engine.calls import FrontendCall
    from anyarch.engine.workbench import SolveResult, Workbench

__all__ = ["run_image"]

_NETWORK_NONE = "moby.buildkit.frontend.network.none"
_CAPS = "moby.buildkit.frontend.caps"
_GRACE_S = 5.0


async def run_image(
    job: Job,
    methods: Mapping[str, Handler],
    returned: asyncio.Future[SolveResult],
    attrs: dict[str, str],
    workers: str,
    call: FrontendCall,
) -> SolveResult:
    """Run the frontend of the image that `source` names: it asks by `methods`, which put into `returned` what
    it returns, and is told of `workers`; `call` gets what it looks into. Raises `RpcError`, and what pulling
    it raises."""
    source = attrs.get("source", "")
    if not source:
        raise RpcError(Code.INVALID_ARGUMENT, "no source specified for gateway")
    to_container, from_us = os.pipe()
    to_us, from_container = os.pipe()
    try:
        stdio = (to_container, from_container, 2)
        async with Server(methods, translate=translate) as server:
            running = asyncio.ensure_future(
                job.run(lambda bench: _run(bench, source, attrs, stdio, job.request.Session, workers, call))
            )
            try:
                async with pipe_link(
                    os.fdopen(to_us, "rb"), os.fdopen(from_us, "wb"), client=False, server=server
                ):
                    both: set[asyncio.Future[Any]] = {running, returned}
                    await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
                    if returned.done():
                        await asyncio.wait([running], timeout=_GRACE_S)
                        return returned.result()
                    status = running.result()
                    # Its last words may still be in the pipe.
                    await asyncio.wait([returned], timeout=0.2)
                    if returned.done():
                        return returned.result()
                    raise RpcError(
                        Code.UNKNOWN, f"frontend {source} ended without a result: exit code: {status}"
                    )
            finally:
                running.cancel()
                await asyncio.wait([running])
                returned.cancel()
    finally:
        os.close(to_container)
        os.close(from_container)


async def _run(
    bench: Workbench,
    source: str,
    attrs: dict[str, str],
    stdio: tuple[int, int, int],
    session: str,
    workers: str,
    call: FrontendCall,
) -> int:
    from anyarch.sandbox.executor import StepHandle
    from anyarch.spec.reference import Reference

    reference = str(Reference.parse(source))
    resolved = await bench.gateway.resolve_image_config(
        reference,
        platform=None,
        mode=attrs.get("image-resolve-mode", "default"),
        log_name=f"resolve image config for docker-image://{reference}",
    )
    config = json_decoder(ImageConfig).decode(resolved.config).config
    labels = config.labels or {}
    check_caps(attrs)
    state = image(resolved.reference, platform=bench.worker.platform)
    definition = state.marshal()
    call.add_image(resolved.reference, None, resolved.digest, is_local=False)
    root = await bench.load(definition).result()
    env = list(config.env or ())
    for number, (key, value) in enumerate(attrs.items()):
        env.append(f"BUILDKIT_FRONTEND_OPT_{number}={key}={value}")
    env += [f"BUILDKIT_SESSION_ID={session}", f"BUILDKIT_WORKERS={workers}"]
    env.append("BUILDKIT_EXPORTEDPRODUCT=")
    arguments = tuple(config.entrypoint or ()) or ("/run",)  # CMD means nothing here, as in BuildKit
    network = NetMode.NONE if _is_true(labels.get(_NETWORK_NONE, "")) else NetMode.UNSET
    container = Container(bench.worker, [bind("/", 0)], [root], network=network)
    try:
        meta = Meta(arguments, tuple(env), config.working_dir or "/", config.user or "")
        return await container.run(meta, stdio=stdio, handle=StepHandle())
    finally:
        await container.release()


def _is_true(text: str) -> bool:
    return text.lower() in ("1", "t", "true")
