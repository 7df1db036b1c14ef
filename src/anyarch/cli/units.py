"""Sizes and times as Docker's tools print them."""

from __future__ import annotations

import time

__all__ = ["ago", "human_size", "timestamp"]

_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


def human_size(size: float) -> str:
    """`12.3kB`: four significant digits, units of 1000."""
    unit = 0
    while size >= 1000 and unit < len(_UNITS) - 1:
        size /= 1000
        unit += 1
    return f"{size:.4g}{_UNITS[unit]}"


def ago(when: float, *, now: float | None = None) -> str:
    """`5 minutes ago`, of a time in seconds since the epoch."""
    seconds = max(0, int((time.time() if now is None else now) - when))
    minutes, hours = seconds // 60, round(seconds / 3600)
    match seconds:
        case 0:
            text = "Less than a second"
        case 1:
            text = "1 second"
        case _ if seconds < 60:
            text = f"{seconds} seconds"
        case _ if minutes == 1:
            text = "About a minute"
        case _ if minutes < 60:
            text = f"{minutes} minutes"
        case _ if hours == 1:
            text = "About an hour"
        case _ if hours < 48:
            text = f"{hours} hours"
        case _ if hours < 24 * 7 * 2:
            text = f"{hours // 24} days"
        case _ if hours < 24 * 30 * 2:
            text = f"{hours // 24 // 7} weeks"
        case _ if hours < 24 * 365 * 2:
            text = f"{hours // 24 // 30} months"
        case _:
            text = f"{hours // 24 // 365} years"
    return f"{text} ago"


def timestamp(when: float) -> str:
    """RFC 3339 in UTC, whole seconds."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(when))
