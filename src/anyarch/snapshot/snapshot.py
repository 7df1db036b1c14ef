"""The value that stands for a file system: a chain of layers."""

from __future__ import annotations

import msgspec

__all__ = ["Snapshot"]


class Snapshot(msgspec.Struct, frozen=True):
    """`layers` are layer ids, lowest first; an empty chain is `scratch`."""

    layers: tuple[str, ...] = ()
