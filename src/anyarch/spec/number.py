"""Numbers as users, registries and peers write them."""

from __future__ import annotations

__all__ = ["natural"]

_DIGITS = 19
"""As many as a signed 64-bit number has; `int` refuses texts of thousands, and some digits of Unicode."""


def natural(text: str) -> int | None:
    """The number that `text` is in decimal ASCII digits, None where it is anything else: empty, signed, with
    blanks, or of more than 19 digits."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= _DIGITS else None
