"""`--progress=rawjson`: one JSON object a line, with the fields of BuildKit's status stream, for programs."""

from __future__ import annotations

import base64
import time
from typing import TYPE_CHECKING, Any, TextIO

import msgspec

from anyarch.progress.trace import clean_name
from anyarch.solver.events import LogEvent, StatusEvent, VertexEvent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anyarch.progress.trace import Trace
    from anyarch.solver.events import Event, WarningEvent

__all__ = ["RawJSONRenderer", "as_json_values", "rfc3339"]


class RawJSONRenderer:
    """Writes each event at once; there is nothing to refresh or to finish."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._encode = msgspec.json.Encoder(enc_hook=str).encode  # a Digest is a str with methods

    def update(self, trace: Trace, updates: Sequence[tuple[Event, list[str]]], now: float) -> None:
        lines = [self._encode(as_json_values(event)).decode() for event, _ in updates]
        self._stream.write("\n".join(lines) + "\n")
        self._stream.flush()

    def refresh(self, trace: Trace, now: float) -> None:
        """Nothing is kept back."""

    def finish(self, trace: Trace, now: float) -> None:
        """Nothing is kept back."""


def as_json_values(event: Event) -> dict[str, Any]:
    """An event as the object that BuildKit's clients write for it; absent and zero fields are left out as
    theirs."""
    if isinstance(event, VertexEvent):
        return {"vertexes": [_vertex(event)]}
    if isinstance(event, StatusEvent):
        return {"statuses": [_status(event)]}
    if isinstance(event, LogEvent):
        return {
            "logs": [
                {
                    "vertex": event.vertex,
                    "stream": event.stream,
                    "data": base64.b64encode(event.data).decode(),
                    "timestamp": rfc3339(event.timestamp),
                }
            ]
        }
    return {"warnings": [warning_values(event)]}


def _vertex(event: VertexEvent) -> dict[str, Any]:
    values: dict[str, Any] = {"digest": event.digest}
    if event.inputs:
        values["inputs"] = event.inputs
    values["name"] = clean_name(event.name)
    _times(values, event.started, event.completed)
    if event.cached:
        values["cached"] = True
    if event.error:
        values["error"] = clean_name(event.error)
    return values


def _status(event: StatusEvent) -> dict[str, Any]:
    values: dict[str, Any] = {"id": clean_name(event.id), "vertex": event.vertex}
    if event.name:
        values["name"] = event.name
    if event.total:
        values["total"] = event.total
    values["current"] = event.current
    values["timestamp"] = rfc3339(event.timestamp)
    _times(values, event.started, event.completed)
    return values


def _times(values: dict[str, Any], started: float | None, completed: float | None) -> None:
    if started is not None:
        values["started"] = rfc3339(started)
    if completed is not None:
        values["completed"] = rfc3339(completed)


def warning_values(event: WarningEvent) -> dict[str, Any]:
    """A warning; also the form it has in a metadata file."""
    values: dict[str, Any] = {"vertex": event.vertex, "level": event.level, "short": _base64(event.short)}
    if event.detail:
        values["detail"] = [_base64(text) for text in event.detail]
    if event.url:
        values["url"] = event.url
    if event.filename:
        values["sourceInfo"] = {"filename": event.filename, "data": base64.b64encode(event.source).decode()}
    if event.lines:
        values["range"] = [{"start": {"line": start}, "end": {"line": end}} for start, end in event.lines]
    return values


def _base64(text: str) -> str:
    return base64.b64encode(text.encode("utf-8", "surrogateescape")).decode()


def rfc3339(seconds: float) -> str:
    """UTC, nanoseconds without trailing zeros, as Go writes times."""
    whole, fraction = divmod(round(seconds * 1e6), 1_000_000)
    text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole))
    return f"{text}.{fraction:06d}".rstrip("0").rstrip(".") + "Z"
