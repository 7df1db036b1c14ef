"""Short hands for events in tests of the displays."""

from __future__ import annotations

from anyarch.solver.events import LogEvent, StatusEvent, VertexEvent

T0 = 1_700_000_000.0


def begun(digest: str, name: str, at: float = 0.0) -> VertexEvent:
    return VertexEvent(digest, name, started=T0 + at)


def ended(
    digest: str, name: str, start: float, end: float, *, cached: bool = False, error: str = ""
) -> VertexEvent:
    return VertexEvent(digest, name, started=T0 + start, completed=T0 + end, cached=cached, error=error)


def said(digest: str, data: bytes, at: float) -> LogEvent:
    return LogEvent(digest, 1, data, T0 + at)


def moved(
    digest: str, name: str, current: int, total: int, at: float, *, end: float | None = None
) -> StatusEvent:
    return StatusEvent(
        digest,
        name,
        current=current,
        total=total,
        timestamp=T0 + at,
        started=T0,
        completed=None if end is None else T0 + end,
    )
