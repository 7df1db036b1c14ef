"""The progress event stream: what happens to the vertices of a build, as BuildKit's status stream has it.

Renderers (`progress`), build records (`history`) and the API all read these. Times are Unix seconds (float).
A `VertexEvent` always carries the whole state of the vertex: announced (no `started`), started, completed.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

__all__ = ["Event", "EventSink", "LogEvent", "StatusEvent", "VertexEvent", "WarningEvent"]


class VertexEvent(msgspec.Struct, frozen=True):
    """`digest` identifies the vertex; a cached one has `cached` and started == completed; a failed one
    `error`."""

    digest: str
    name: str
    inputs: tuple[str, ...] = ()
    started: float | None = None
    completed: float | None = None
    cached: bool = False
    error: str = ""


class StatusEvent(msgspec.Struct, frozen=True):
    """One progress bar of a vertex. `id` is the text shown (`transferring context:`), `name` the action;
    bytes in
    `current` of `total` (0: unknown); `completed` ends it."""

    vertex: str
    id: str
    name: str = ""
    current: int = 0
    total: int = 0
    timestamp: float = 0.0
    started: float | None = None
    completed: float | None = None


class LogEvent(msgspec.Struct, frozen=True):
    """Output of a step, raw bytes, maybe part of a line. `stream` 1 is stdout, 2 stderr."""

    vertex: str
    stream: int
    data: bytes
    timestamp: float


class WarningEvent(msgspec.Struct, frozen=True):
    """A lint warning or notice, with the Dockerfile lines it is about."""

    vertex: str
    short: str
    detail: tuple[str, ...] = ()
    url: str = ""
    level: int = 1
    filename: str = ""
    source: bytes = b""
    lines: tuple[tuple[int, int], ...] = ()


Event = VertexEvent | StatusEvent | LogEvent | WarningEvent
EventSink = Callable[[Event], None]
"""Takes an event; called from any thread; must not block for long and must not raise."""
