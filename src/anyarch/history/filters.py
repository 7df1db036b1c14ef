"""Filters of build records, in the words of `docker buildx history ls --filter`: for the daemon, and for
records of daemons that know none."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

from anyarch.errors import UsageError
from anyarch.spec.timestamp import parse_time

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from anyarch.history.record import BuildRecord

__all__ = ["for_daemon", "matcher"]

_FILTER = re.compile(r"([^!=<>]*)(!=|<=|>=|=|<|>)(.*)\Z", re.DOTALL)
_TEXTS = ("ref", "repository", "status")
_TIMES = ("startedAt", "completedAt", "duration")
_UNITS = {"ns": 1, "us": 1e3, "µs": 1e3, "ms": 1e6, "s": 1e9, "m": 60e9, "h": 3600e9}
_PART = re.compile(r"(\d+(?:\.\d*)?)(ns|us|µs|ms|s|m|h)")


def for_daemon(texts: Sequence[str]) -> list[str]:
    """As BuildKit's API takes them: one text, of which all has to hold. Raises `UsageError`."""
    terms = []
    for text in texts:
        key, operator, value = _split(text)
        if operator == "=":
            operator = "==" if key == "status" else "~="
        term = f"{key}{operator}{value}"
        terms.append('"' + term.replace('"', '""') + '"' if set(term) & set(',"\n') else term)
    return [",".join(terms)] if terms else []


def matcher(texts: Sequence[str], *, now: float | None = None) -> Callable[[BuildRecord], bool]:
    """Whether all filters hold for a record. Raises `UsageError`."""
    clock = time.time() if now is None else now
    terms = [_term(*_split(text), clock) for text in texts]
    return lambda record: all(term(record) for term in terms)


def _split(text: str) -> tuple[str, str, str]:
    match = _FILTER.match(text)
    if match is None:
        raise UsageError(f'invalid filter "{text}"', hint="for example status=error or startedAt>24h")
    key, operator, value = match.groups()
    if key in _TEXTS and operator not in ("=", "!="):
        raise UsageError(f'invalid separator for "{text}", expected = or !=')
    if key in _TIMES and operator in ("=", "!="):
        raise UsageError(f'invalid separator for "{text}", expected <=, <, >= or >')
    if key not in (*_TEXTS, *_TIMES):
        raise UsageError(f'unsupported filter "{text}"', hint=f"it is one of {', '.join((*_TEXTS, *_TIMES))}")
    return key, operator, value


def _term(key: str, operator: str, value: str, clock: float) -> Callable[[BuildRecord], bool]:
    if key in _TEXTS:
        return lambda record: _holds_text(record, key, value) == (operator == "=")
    limit = _nanoseconds(value) if key == "duration" else _moment(value, clock)

    def holds(record: BuildRecord) -> bool:
        match key:
            case "startedAt":
                found: int | None = record.started
            case "completedAt":
                found = record.completed
            case _:
                found = record.duration if record.completed is not None else None
        return found is not None and _compare(found, operator, limit)

    return holds


def _compare(found: int, operator: str, limit: int) -> bool:
    match operator:
        case "<":
            return found < limit
        case "<=":
            return found <= limit
        case ">":
            return found > limit
    return found >= limit


def _holds_text(record: BuildRecord, key: str, value: str) -> bool:
    match key:
        case "status":
            return record.status == value
        case "ref":
            return value in record.ref
    return value in (record.attrs.get("vcs:source") or record.attrs.get("context", ""))


def _moment(text: str, clock: float) -> int:
    """Nanoseconds since the epoch, of a time or of how long ago that is."""
    if _PART.match(text):
        return int(clock * 1e9) - _nanoseconds(text)
    found = parse_time(text)
    if found is None:
        raise UsageError(f"invalid time {text}", hint="an RFC 3339 time, or how long ago: 24h")
    return int(found * 1e9)


def _nanoseconds(text: str) -> int:
    parts = _PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise UsageError(f"invalid duration {text}", hint="for example 1m30s")
    return int(sum(float(number) * _UNITS[unit] for number, unit in parts))
