"""The service that takes clients' traces: they are acknowledged and not kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anyarch.api.proto import trace_pb2
from anyarch.api.rpc.server import unary

if TYPE_CHECKING:
    from anyarch.api.rpc.server import Handler, ServerCall

__all__ = ["trace_methods"]


def trace_methods() -> dict[str, Handler]:
    async def export(
        request: trace_pb2.ExportTraceServiceRequest, call: ServerCall
    ) -> trace_pb2.ExportTraceServiceResponse:
        return trace_pb2.ExportTraceServiceResponse()

    path = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
    return {path: unary(trace_pb2.ExportTraceServiceRequest, export)}
