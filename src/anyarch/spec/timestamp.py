"""Times in image documents: RFC 3339 text in UTC, as Go writes it (no trailing zeros)."""

from __future__ import annotations

import time

__all__ = ["LATEST_S", "format_time", "parse_time"]

LATEST_S = 253_402_300_799
"""The end of the last year that four digits can tell, in seconds since the epoch."""


def format_time(seconds: float) -> str:
    """`1970-01-01T00:00:00Z`, with microseconds when there are any."""
    whole = int(seconds // 1)
    micro = round((seconds - whole) * 1_000_000)
    if micro == 1_000_000:
        whole, micro = whole + 1, 0
    text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole))
    return text + (f".{micro:06d}".rstrip("0") if micro else "") + "Z"


def parse_time(text: str) -> float | None:
    """Seconds since the epoch; None for text that is no RFC 3339 time."""
    from datetime import datetime

    head, dot, tail = text.partition(".")
    if dot:
        digits = "".join(c for c in tail if c.isdigit() or c in "Z+-:")
        fraction = ""
        while digits and digits[0].isdigit():
            fraction += digits[0]
            digits = digits[1:]
        text = f"{head}.{fraction[:6]:0<6}{digits}"
    try:
        return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()
    except ValueError:
        return None
