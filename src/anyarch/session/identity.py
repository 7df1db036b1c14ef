"""Names of builds, sessions and workers."""

from __future__ import annotations

import secrets

__all__ = ["base36_id"]

_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


def base36_id() -> str:
    """A new id as BuildKit's are: 25 digits of base 36 that cannot be guessed."""
    return "".join(secrets.choice(_DIGITS) for _ in range(25))
