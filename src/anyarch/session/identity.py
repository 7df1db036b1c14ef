"""Names of builds, sessions and workers."""

from __future__ import annotations

import os

__all__ = ["base36_id"]

_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
_LENGTH = 25


def base36_id() -> str:
    """A new id as BuildKit's are: 25 digits of base 36 that cannot be guessed."""
    number = int.from_bytes(os.urandom(32), "big")  # so many more bits that all ids are as likely
    digits = []
    for _ in range(_LENGTH):
        number, digit = divmod(number, 36)
        digits.append(_DIGITS[digit])
    return "".join(digits)
