"""Attributes that outputs and caches have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from anyarch.errors import UsageError
from anyarch.spec.number import natural

if TYPE_CHECKING:
    from anyarch.archive.compression import Compression

__all__ = ["COMPRESSIONS", "compression_of", "flag"]

_TRUE = frozenset({"1", "t", "true", "y", "yes", ""})
_FALSE = frozenset({"0", "f", "false", "n", "no"})
COMPRESSIONS: dict[str, Literal["gzip", "estargz", "zstd", "uncompressed"]] = {
    "gzip": "gzip",
    "estargz": "estargz",
    "zstd": "zstd",
    "uncompressed": "uncompressed",
}


def flag(attrs: dict[str, str], name: str, *, default: bool) -> bool:
    """A boolean attribute. Raises `UsageError`."""
    text = attrs.get(name)
    if text is None:
        return default
    if text.lower() in _TRUE:
        return True
    if text.lower() in _FALSE:
        return False
    raise UsageError(f"invalid value {text!r} for {name}", hint="write true or false")


def compression_of(attrs: dict[str, str]) -> Compression:
    """What `compression` and `compression-level` ask for. Raises `UsageError`."""
    from anyarch.archive.compression import Compression

    wanted = attrs.get("compression", "gzip")
    kind = COMPRESSIONS.get(wanted)
    if kind is None:
        raise UsageError(
            f"unsupported compression type {wanted}", hint="choose gzip, estargz, zstd or uncompressed"
        )
    text = attrs.get("compression-level", "")
    level: int | None = None
    if text:
        level = natural(text)
        if level is None and natural(text.removeprefix("-")) is None:
            raise UsageError(f"compression-level {text!r} is not a number")
        top = 22 if kind == "zstd" else 9
        if level is None or level > top:
            raise UsageError(f"compression-level {text} is out of range", hint=f"{kind} takes 0 to {top}")
    return Compression(kind, level)
