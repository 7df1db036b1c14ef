"""A build as a trace (`docker buildx history trace`): one span for the build, below it one for each vertex.

The form is that of BuildKit's records: JSON objects one after another, with the field names of
OpenTelemetry's Go library.
"""

from __future__ import annotations

import json
import secrets
import time
from typing import TYPE_CHECKING

from anyarch.solver.events import VertexEvent
from anyarch.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterable

    from anyarch.solver.events import Event

__all__ = ["TRACE_TYPE", "trace_of"]

TRACE_TYPE = "application/vnd.buildkit.otlp.json.v0"
_NO_TRACE, _NO_SPAN = "0" * 32, "0" * 16
_INTERNAL, _SERVER = 1, 2


def trace_of(
    ref: str, events: Iterable[Event], *, began: float, ended: float, error: str = "", parent: str = ""
) -> bytes:
    """Times in seconds since the epoch. `parent` is the client's `traceparent` header: the build is then part
    of its trace."""
    trace, above = _parent(parent)
    root = _new_span()
    spans = [
        _span(trace, root, above, "solve", began, ended, kind=_SERVER, error=error, attributes={"ref": ref})
    ]
    vertices: dict[str, VertexEvent] = {}
    for event in events:
        if isinstance(event, VertexEvent):
            vertices[event.digest] = event
    for vertex in vertices.values():
        if vertex.started is None:
            continue
        facts = {"vertex": vertex.digest, "cached": "true" if vertex.cached else "false"}
        end = vertex.completed if vertex.completed is not None else ended
        spans.append(
            _span(
                trace,
                _new_span(),
                root,
                vertex.name,
                vertex.started,
                end,
                kind=_INTERNAL,
                error=vertex.error,
                attributes=facts,
            )
        )
    spans[0]["ChildSpanCount"] = len(spans) - 1
    return b"".join(json.dumps(span, indent=2).encode() + b"\n" for span in spans)


def _parent(header: str) -> tuple[str, str]:
    """Trace and span of a W3C `traceparent`; a new trace where there is none."""
    parts = header.split("-")
    if len(parts) >= 4 and [len(part) for part in parts[:3]] == [2, 32, 16]:
        trace, span = parts[1].lower(), parts[2].lower()
        if set(trace + span) <= set("0123456789abcdef") and trace != _NO_TRACE:
            return trace, span
    return secrets.token_hex(16), _NO_SPAN


def _new_span() -> str:
    return secrets.token_hex(8)


def _context(trace: str, span: str) -> dict[str, object]:
    return {"TraceID": trace, "SpanID": span, "TraceFlags": "01", "TraceState": "", "Remote": False}


def _span(
    trace: str,
    span: str,
    parent: str,
    name: str,
    start: float,
    end: float,
    *,
    kind: int,
    error: str,
    attributes: dict[str, str],
) -> dict[str, object]:
    above = _context(trace if parent != _NO_SPAN else _NO_TRACE, parent)
    return {
        "Name": name,
        "SpanContext": _context(trace, span),
        "Parent": above,
        "SpanKind": kind,
        "StartTime": _time(start),
        "EndTime": _time(max(start, end)),
        "Attributes": _pairs(attributes),
        "Events": None,
        "Links": None,
        "Status": {"Code": "Error" if error else "Unset", "Description": error},
        "DroppedAttributes": 0,
        "DroppedEvents": 0,
        "DroppedLinks": 0,
        "ChildSpanCount": 0,
        "Resource": _pairs({"service.name": "anyarchd", "service.version": __version__}),
        "InstrumentationLibrary": {"Name": "anyarchd", "Version": __version__, "SchemaURL": ""},
    }


def _pairs(facts: dict[str, str]) -> list[dict[str, object]]:
    return [{"Key": key, "Value": {"Type": "STRING", "Value": value}} for key, value in facts.items()]


def _time(seconds: float) -> str:
    whole = int(seconds)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole)) + f".{int((seconds - whole) * 1e6):06d}Z"
