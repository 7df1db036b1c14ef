"""Character classes that the formats we read define by Go's `unicode` package."""

from __future__ import annotations

__all__ = ["BLANKS"]

BLANKS = (
    "\t\n\v\f\r \x85\xa0\u1680" + "".join(map(chr, range(0x2000, 0x200B))) + "\u2028\u2029\u202f\u205f\u3000"
)
"""What `unicode.IsSpace` calls a space. Python's `str.isspace` knows four control characters more
(0x1c-0x1f).
"""
