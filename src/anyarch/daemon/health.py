"""The service `grpc.health.v1.Health`, of the daemon and of what it is asked over sessions."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from anyarch.api.proto import health_pb2
from anyarch.api.rpc.server import unary

if TYPE_CHECKING:
    from anyarch.api.rpc.server import Handler, ServerCall

__all__ = ["health_methods"]


def health_methods() -> dict[str, Handler]:
    serving = health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING)

    async def check(
        request: health_pb2.HealthCheckRequest, call: ServerCall
    ) -> health_pb2.HealthCheckResponse:
        return serving

    async def watch(call: ServerCall) -> None:
        await call.request(health_pb2.HealthCheckRequest)
        await call.send(serving)
        await asyncio.Event().wait()  # nothing changes while we serve; the client ends the call

    return {
        "/grpc.health.v1.Health/Check": unary(health_pb2.HealthCheckRequest, check),
        "/grpc.health.v1.Health/Watch": watch,
    }
