"""Path patterns as Go's `path/filepath.Match` defines them: `*`, `?`, `[class]`, `\\x`; never across a
slash."""

from __future__ import annotations

import re
from functools import lru_cache

from anyarch.errors import BuildError

__all__ = ["has_wildcards", "match"]


def has_wildcards(path: str) -> bool:
    """Whether `path` holds an unescaped `*`, `?` or `[`."""
    escaped = False
    for char in path:
        if escaped:
            escaped = False
        elif char == "\\":
            escaped = True
        elif char in "*?[":
            return True
    return False


@lru_cache(maxsize=256)
def _compile(pattern: str) -> re.Pattern[str]:
    out, at, end = [], 0, len(pattern)
    while at < end:
        char = pattern[at]
        at += 1
        if char == "*":
            out.append("[^/]*")
        elif char == "?":
            out.append("[^/]")
        elif char == "\\":
            if at == end:
                raise BuildError(f"syntax error in pattern: {pattern!r}")
            out.append(re.escape(pattern[at]))
            at += 1
        elif char == "[":
            text, at = _class(pattern, at)
            out.append(text)
        else:
            out.append(re.escape(char))
    return re.compile("".join(out) + r"\Z", re.DOTALL)


def _class(pattern: str, at: int) -> tuple[str, int]:
    """A bracket class from behind its `[`; the regular expression and the position behind its `]`."""
    end = len(pattern)
    ranges: list[str] = []
    negated = at < end and pattern[at] == "^"
    at += negated

    def char() -> str:
        nonlocal at
        if at >= end or pattern[at] in "-]":
            raise BuildError(f"syntax error in pattern: {pattern!r}")
        if pattern[at] == "\\":
            at += 1
            if at >= end:
                raise BuildError(f"syntax error in pattern: {pattern!r}")
        at += 1
        return pattern[at - 1]

    while True:
        if at < end and pattern[at] == "]" and ranges:
            at += 1
            break
        low = high = char()
        if at < end and pattern[at] == "-":
            at += 1
            high = char()
        if low <= high:
            ranges.append(f"{re.escape(low)}-{re.escape(high)}")
        else:
            ranges.append("")  # an empty range matches nothing, as in Go
    body = "".join(ranges)
    if negated:
        return (f"[^{body}]" if body else ".") if body else "(?s:.)", at
    return (f"[{body}]" if body else r"(?!)"), at


def match(pattern: str, path: str) -> bool:
    """Whether all of `path` matches. Raises `BuildError` on a malformed pattern."""
    return _compile(pattern).match(path) is not None
