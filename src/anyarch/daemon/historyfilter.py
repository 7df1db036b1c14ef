"""Filters of build records: of a list any has to hold, of what a comma joins all."""

from __future__ import annotations

import re
from datetime import datetime
from typing import TYPE_CHECKING

from anyarch.api.rpc.status import Code, RpcError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from anyarch.api.proto import control_pb2

__all__ = ["parse_filters"]

_TERM = re.compile(r"\s*([A-Za-z]+)\s*(==|!=|~=|>=|<=|=|>|<)\s*(.*?)\s*\Z", re.S)
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)")


def parse_filters(texts: Sequence[str], now: float) -> Callable[[control_pb2.BuildHistoryRecord], bool]:
    """A test of records. Raises `RpcError`."""
    groups = [[_term(part, now) for part in text.split(",") if part.strip()] for text in texts]
    groups = [group for group in groups if group]

    def matches(record: control_pb2.BuildHistoryRecord) -> bool:
        return not groups or any(all(term(record) for term in group) for group in groups)

    return matches


def _term(text: str, now: float) -> Callable[[control_pb2.BuildHistoryRecord], bool]:
    found = _TERM.match(text)
    if found is None:
        raise RpcError(Code.INVALID_ARGUMENT, f"failed to parse filter {text!r}")
    field, comparison, value = found.groups()
    value = value.strip("\"'")
    match field:
        case "startedAt" | "completedAt":
            wanted = _time(value, now)

            def by_time(record: control_pb2.BuildHistoryRecord) -> bool:
                stamp = record.CreatedAt if field == "startedAt" else record.CompletedAt
                if field == "completedAt" and not record.HasField("CompletedAt"):
                    return False
                return _compare(stamp.seconds + stamp.nanos / 1e9, comparison, wanted)

            return by_time
        case "duration":
            length = _seconds(value)

            def by_duration(record: control_pb2.BuildHistoryRecord) -> bool:
                end = record.CompletedAt.seconds + record.CompletedAt.nanos / 1e9
                end = end if record.HasField("CompletedAt") else now
                return _compare(
                    end - record.CreatedAt.seconds - record.CreatedAt.nanos / 1e9, comparison, length
                )

            return by_duration
        case "ref" | "status" | "repository":
            return lambda record: _matches(_text(record, field), comparison, value)
    raise RpcError(Code.INVALID_ARGUMENT, f"unknown field {field} in filter {text!r}")


def _text(record: control_pb2.BuildHistoryRecord, field: str) -> str:
    if field == "ref":
        return str(record.Ref)
    if field == "repository":
        attrs = record.FrontendAttrs
        return str(attrs.get("vcs:source", "") or attrs.get("context", ""))
    if not record.HasField("CompletedAt"):
        return "running"
    if not record.HasField("error"):
        return "completed"
    return (
        "canceled" if record.error.code == Code.CANCELLED or "canceled" in record.error.message else "error"
    )


def _matches(have: str, comparison: str, value: str) -> bool:
    if comparison == "~=":
        try:
            return re.search(value, have) is not None
        except re.error:
            raise RpcError(Code.INVALID_ARGUMENT, f"invalid pattern {value!r}") from None
    return (have == value) != (comparison == "!=")


def _compare(have: float, comparison: str, wanted: float) -> bool:
    match comparison:
        case ">":
            return have > wanted
        case ">=":
            return have >= wanted
        case "<":
            return have < wanted
        case "<=":
            return have <= wanted
        case "!=":
            return have != wanted
    return have == wanted


def _seconds(text: str) -> float:
    parts = _DURATION.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise RpcError(Code.INVALID_ARGUMENT, f"invalid duration {text!r}")
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


def _time(text: str, now: float) -> float:
    """A time, or how long ago it was."""
    if _DURATION.match(text):
        return now - _seconds(text)
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        raise RpcError(Code.INVALID_ARGUMENT, f"invalid time {text!r}") from None
