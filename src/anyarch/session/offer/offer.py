"""One session: a connection inside `Control.Session` on which the client answers the builder's calls.

BuildKit's session protocol; the builder learns from the metadata of the call which methods there are.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from anyarch.api.proto import health_pb2 as health
from anyarch.api.rpc.server import Server, unary
from anyarch.api.rpc.tunnel import Tunnel

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from anyarch.api.rpc.client import Channel
    from anyarch.api.rpc.server import Handler, ServerCall

__all__ = ["offered", "shared_key"]

SESSION = "/moby.buildkit.v1.Control/Session"
_CHECK = "/grpc.health.v1.Health/Check"


def shared_key(directory: str) -> str:
    """By which a builder finds what it was sent from this directory before."""
    path = os.path.abspath(directory)
    return (
        f"{os.path.basename(path)}:{hashlib.sha256(path.encode('utf-8', 'surrogateescape')).hexdigest()[:32]}"
    )


@asynccontextmanager
async def offered(
    channel: Channel, methods: Mapping[str, Handler], *, session_id: str, key: str = ""
) -> AsyncIterator[None]:
    """Serve `methods` to the builder at the other end of `channel` while the block runs. Raises `RpcError`
    when the builder takes no session."""
    table = {**methods, _CHECK: unary(health.HealthCheckRequest, _healthy)}
    metadata = [
        ("x-docker-expose-session-uuid", session_id),
        ("x-docker-expose-session-sharedkey", key),
        *(("x-docker-expose-session-grpc-method", path) for path in table),
    ]
    async with Server(table) as server:
        call = channel.start(SESSION, metadata=metadata)
        tunnel = Tunnel(call, client=False, server=server)
        try:
            yield
        finally:
            tunnel.close()
            call.cancel()


async def _healthy(_request: health.HealthCheckRequest, _call: ServerCall) -> health.HealthCheckResponse:
    return health.HealthCheckResponse(status=health.HealthCheckResponse.SERVING)
