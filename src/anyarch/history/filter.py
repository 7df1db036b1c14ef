"""Which build records a client wants: the filters of `ListenBuildHistory`.

A record passes when it passes one of the filters; a filter is a comma list of which all parts have to hold.
Times are RFC 3339 or a duration ago. The other fields are compared as containerd's filters do (`==`, `!=`,
`~=`, or the field's name alone: it is there).
"""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

from anyarch.engine.grammar import csv_fields
from anyarch.errors import UsageError
from anyarch.spec.timestamp import parse_time

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from anyarch.api.proto import wellknown_pb2 as wellknown
    from anyarch.api.proto.control_pb2 import BuildHistoryRecord

    Match = Callable[[BuildHistoryRecord], bool]

__all__ = ["duration_s", "matcher", "status_of"]

_COMPARISON = re.compile(r"(startedAt|completedAt|duration)(>=|<=|>|<)(.*)", re.DOTALL)
_FIELD = re.compile(r"(ref|status|repository)(?:(==|!=|~=)(.*))?", re.DOTALL)
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h)")
_UNIT_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_REMOTE_CONTEXT = re.compile(r"(?:https?|git|ssh)://|git@|github\.com/")


def matcher(filters: Iterable[str], *, now: float | None = None) -> Match:
    """Whether a record passes. Raises `UsageError` for a filter that is none."""
    at = time.time() if now is None else now
    groups = [[_part(part, at) for part in csv_fields(text)] for text in filters]
    if not groups:
        return lambda record: True
    return lambda record: any(all(part(record) for part in group) for group in groups)


def status_of(record: BuildHistoryRecord) -> str:
    """running, completed, error or canceled."""
    if not record.HasField("CompletedAt"):
        return "running"
    if not record.HasField("error"):
        return "completed"
    return "canceled" if "context canceled" in record.error.message else "error"


def duration_s(text: str) -> float | None:
    """Seconds of a duration as Go writes it (`1h30m`, `2.5s`); None for anything else."""
    sign = -1.0 if text.startswith("-") else 1.0
    rest = text.lstrip("+-") if text[:1] in "+-" else text
    if rest == "0":
        return 0.0
    total, position = 0.0, 0
    for found in _DURATION.finditer(rest):
        if found.start() != position:
            return None
        total += float(found[1]) * _UNIT_S[found[2]]
        position = found.end()
    return sign * total if rest and position == len(rest) else None


def _part(text: str, now: float) -> Match:
    found = _COMPARISON.fullmatch(text)
    if found is not None:
        return _comparison(found[1], found[2], found[3], now)
    found = _FIELD.fullmatch(text)
    if found is None:
        raise UsageError(
            f"failed to parse history filters {text}",
            hint="ref, status and repository take ==, != and ~=; "
            "startedAt, completedAt and duration take <, >, <= and >=",
        )
    field, operator, value = found[1], found[2], found[3] or ""
    if operator == "~=":
        try:
            pattern = re.compile(value)
        except re.error as error:
            raise UsageError(f"failed to parse history filters {text}: {error}") from None
        return lambda record: pattern.search(_field(record, field)) is not None
    if operator == "==":
        return lambda record: _field(record, field) == value
    if operator == "!=":
        return lambda record: _field(record, field) != value
    return lambda record: bool(_field(record, field))


def _comparison(field: str, operator: str, text: str, now: float) -> Match:
    value = duration_s(text)
    if field == "duration":
        if value is None:
            raise UsageError(f"invalid duration {text}")
        limit = value
    elif value is not None:
        limit = float(int(now - value))
    else:
        moment = parse_time(text)
        if moment is None:
            raise UsageError(
                f"invalid time {text}", hint="write a time as RFC 3339, or a duration such as 2h"
            )
        limit = float(int(moment))

    def measure(record: BuildHistoryRecord) -> float:
        started, completed = record.CreatedAt, record.CompletedAt
        match field:
            case "startedAt":
                return float(started.seconds)
            case "completedAt":
                return float(completed.seconds) if record.HasField("CompletedAt") else 0.0
        return _seconds(completed) - _seconds(started) if record.HasField("CompletedAt") else 0.0

    match operator:
        case ">=":
            return lambda record: measure(record) >= limit
        case "<=":
            return lambda record: measure(record) <= limit
        case ">":
            return lambda record: measure(record) > limit
    return lambda record: measure(record) < limit


def _seconds(moment: wellknown.Timestamp) -> float:
    return moment.seconds + moment.nanos / 1e9


def _field(record: BuildHistoryRecord, name: str) -> str:
    match name:
        case "ref":
            return record.Ref
        case "status":
            return status_of(record)
    source = record.FrontendAttrs.get("vcs:source", "")
    if source:
        return source
    context = record.FrontendAttrs.get("context", "")
    return context.partition("#")[0] if _REMOTE_CONTEXT.match(context) else ""
