"""Character classes: those that the formats we read define by Go's `unicode` package, and what a terminal may
be sent."""

from __future__ import annotations

__all__ = ["BLANKS", "in_utf8", "visible"]

BLANKS = (
    "\t\n\v\f\r \x85\xa0\u1680" + "".join(map(chr, range(0x2000, 0x200B))) + "\u2028\u2029\u202f\u205f\u3000"
)
"""What `unicode.IsSpace` calls a space. Python's `str.isspace` knows four control characters more
(0x1c-0x1f).
"""

_CONTROL = {
    number: f"\\x{number:02x}" for number in (*range(32), *range(0x7F, 0xA0)) if number not in (9, 10, 0x85)
}


def visible(text: str) -> str:
    """`text` of others for a terminal: control characters are spelled out, which would otherwise move its
    cursor or change its title; tabs and line ends stay."""
    return text if text.isprintable() else text.translate(_CONTROL)


def in_utf8(text: str) -> str:
    """`text` with U+FFFD for bytes that are not UTF-8 (lone surrogates here), as Go's JSON has them."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
