"""Ignore files: `.dockerignore` and `<Dockerfile>.dockerignore`. Their patterns are
`anyarch.spec.pattern`'s."""

from __future__ import annotations

from anyarch.errors import DockerfileError
from anyarch.spec.pattern import clean_path

from .gotext import BLANKS

__all__ = ["parse_ignore"]

_MAX_LINE_BYTES = 65_535
_BOM = "\ufeff"


def parse_ignore(data: bytes) -> list[str]:
    """Patterns of an ignore file, cleaned, in order; `!` kept. Raises `DockerfileError` for a line too long.

    A `#` makes a comment in the first column only. What is wrong with a pattern shows when it is compiled.
    """
    patterns: list[str] = []
    for line in data.decode("utf-8", "surrogateescape").removeprefix(_BOM).split("\n"):
        if len(line) * 4 > _MAX_LINE_BYTES and len(line.encode("utf-8", "surrogateescape")) > _MAX_LINE_BYTES:
            raise DockerfileError("ignore file: a line is longer than 65535 bytes")
        text = line.strip(BLANKS)
        if line.startswith("#") or not text:
            continue
        mark = ""
        if text[0] == "!":
            mark = "!"
            text = text[1:].strip(BLANKS)
        if text:
            text = clean_path(text)
            if len(text) > 1:
                text = text.removeprefix("/")
        patterns.append(mark + text)
    return patterns
