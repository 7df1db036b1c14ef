"""The progress of a build: kept from its first event on, and told to any number of listeners as BuildKit's
status messages."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from anyarch.api.proto import control_pb2, llb_pb2, wellknown_pb2
from anyarch.daemon.clip import Clip
from anyarch.solver.events import LogEvent, StatusEvent, VertexEvent, WarningEvent

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator

    from anyarch.solver.events import Event

__all__ = ["EventLog", "status_messages", "timestamp"]

_MAX_LOG = 1 << 20
"""Bytes of step output in one message; stock splits near here too."""
_MAX_ITEMS = 2000


class EventLog:
    """Events of one build. `add` comes from any thread, everything else from the wire's loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._lock = threading.Lock()
        self._notified = False
        self._grown = asyncio.Event()
        self._clip = Clip.of()
        self.events: list[Event] = []
        self.closed = False

    def add(self, event: Event) -> None:
        with self._lock:
            if self.closed:
                return
            self.events += self._clip.events(event)
            if self._notified:
                return
            self._notified = True
        with suppress(RuntimeError):  # the daemon is ending; nobody listens any more
            self._loop.call_soon_threadsafe(self._wake)

    def close(self) -> None:
        """No more events come; what still runs is told as canceled."""
        with self._lock:
            self.closed = True
        self._wake()

    def _wake(self) -> None:
        with self._lock:
            self._notified = False
        grown, self._grown = self._grown, asyncio.Event()
        grown.set()

    async def follow(self) -> AsyncIterator[list[Event]]:
        """All events from the first on, in groups, until the log is closed."""
        position = 0
        while True:
            grown = self._grown
            with self._lock:
                found = self.events[position:]
                closed = self.closed
            position += len(found)
            if found:
                yield found
            elif closed:
                return
            else:
                await grown.wait()


def timestamp(seconds: float) -> wellknown_pb2.Timestamp:
    whole = int(seconds // 1)
    return wellknown_pb2.Timestamp(seconds=whole, nanos=int((seconds - whole) * 1e9))


def status_messages(events: Iterable[Event]) -> Iterator[control_pb2.StatusResponse]:
    """`events` as messages of bounded size, in order, each made when it is asked for."""
    current = control_pb2.StatusResponse()
    size = items = 0
    for event in events:
        if size > _MAX_LOG or items >= _MAX_ITEMS:
            yield current
            current = control_pb2.StatusResponse()
            size = items = 0
        items += 1
        match event:
            case VertexEvent():
                size += len(event.name) + len(event.error)
                current.vertexes.append(_vertex(event))
            case StatusEvent():
                current.statuses.append(_status(event))
            case LogEvent():
                size += len(event.data)
                current.logs.append(
                    control_pb2.VertexLog(
                        vertex=event.vertex,
                        timestamp=timestamp(event.timestamp),
                        stream=event.stream,
                        msg=event.data,
                    )
                )
            case WarningEvent():
                size += len(event.source) + len(event.short) + sum(map(len, event.detail))
                current.warnings.append(_warning(event))
    if items:
        yield current


def _vertex(event: VertexEvent) -> control_pb2.Vertex:
    message = control_pb2.Vertex(
        digest=event.digest,
        inputs=event.inputs,
        name=event.name,
        cached=event.cached,
        error=event.error,
    )
    if event.started is not None:
        message.started.CopyFrom(timestamp(event.started))
    if event.completed is not None:
        message.completed.CopyFrom(timestamp(event.completed))
    return message


def _status(event: StatusEvent) -> control_pb2.VertexStatus:
    message = control_pb2.VertexStatus(
        ID=event.id,
        vertex=event.vertex,
        name=event.name,
        current=event.current,
        total=event.total,
        timestamp=timestamp(event.timestamp),
    )
    if event.started is not None:
        message.started.CopyFrom(timestamp(event.started))
    if event.completed is not None:
        message.completed.CopyFrom(timestamp(event.completed))
    return message


def _warning(event: WarningEvent) -> control_pb2.VertexWarning:
    message = control_pb2.VertexWarning(
        vertex=event.vertex,
        level=event.level,
        short=event.short.encode("utf-8", "surrogateescape"),
        detail=[line.encode("utf-8", "surrogateescape") for line in event.detail],
        url=event.url,
        ranges=[
            llb_pb2.Range(start=llb_pb2.Position(line=start), end=llb_pb2.Position(line=end))
            for start, end in event.lines
        ],
    )
    if event.filename or event.source:
        message.info.CopyFrom(llb_pb2.SourceInfo(filename=event.filename, data=event.source))
    return message
