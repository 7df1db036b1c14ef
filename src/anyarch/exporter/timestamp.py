"""Bounding times in image documents by SOURCE_DATE_EPOCH."""

from __future__ import annotations

from anyarch.spec.timestamp import format_time, parse_time

__all__ = ["clamp", "format_time", "parse_time"]


def clamp(text: str | None, epoch: int) -> str:
    """`text`, or `epoch` where that is earlier or there is no time at all."""
    seconds = parse_time(text) if text else None
    return format_time(epoch) if seconds is None or seconds > epoch else str(text)
