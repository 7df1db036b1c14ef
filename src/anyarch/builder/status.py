"""A builder's status stream as progress events."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anyarch.solver.events import LogEvent, StatusEvent, VertexEvent, WarningEvent

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anyarch.api.proto import control_pb2 as control
    from anyarch.api.proto import wellknown_pb2 as wellknown
    from anyarch.solver.events import Event

__all__ = ["events_of"]


def events_of(message: control.StatusResponse, *, skew_s: float = 0.0) -> Iterator[Event]:
    """The events of one message; `skew_s` is how far the builder's clock is ahead of ours."""

    def seconds(time: wellknown.Timestamp) -> float:
        return time.seconds + time.nanos / 1e9 - skew_s

    def known(item: control.Vertex | control.VertexStatus, name: str) -> float | None:
        return seconds(getattr(item, name)) if item.HasField(name) else None

    for vertex in message.vertexes:
        yield VertexEvent(
            vertex.digest,
            vertex.name,
            tuple(vertex.inputs),
            known(vertex, "started"),
            known(vertex, "completed"),
            vertex.cached,
            vertex.error,
        )
    for status in message.statuses:
        yield StatusEvent(
            status.vertex,
            status.ID,
            status.name,
            status.current,
            status.total,
            seconds(status.timestamp),
            known(status, "started"),
            known(status, "completed"),
        )
    for log in message.logs:
        yield LogEvent(log.vertex, log.stream, log.msg, seconds(log.timestamp))
    for warning in message.warnings:
        yield WarningEvent(
            warning.vertex,
            warning.short.decode("utf-8", "replace"),
            tuple(line.decode("utf-8", "replace") for line in warning.detail),
            warning.url,
            warning.level,
            warning.info.filename,
            warning.info.data,
            tuple((one.start.line, one.end.line) for one in warning.ranges),
        )
