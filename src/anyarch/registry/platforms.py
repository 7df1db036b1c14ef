"""Which manifest of an index serves a platform."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anyarch.errors import NoMatchingPlatform

if TYPE_CHECKING:
    from collections.abc import Callable

    from anyarch.spec.oci import Descriptor, Index
    from anyarch.spec.platform import Platform

__all__ = ["select_manifest"]


def select_manifest(
    index: Index,
    wanted: Platform,
    *,
    name: str = "",
    platform_of: Callable[[Descriptor], Platform | None] | None = None,
) -> Descriptor:
    """The entry that serves `wanted` best; the first of equals.

    Attestation entries (`unknown/unknown`) never match. `platform_of` is asked for entries without a platform
    (the caller reads their config); without it they never match. `name` is the reference, for the message.
    Raises `NoMatchingPlatform` with what there is.
    """
    raise NoMatchingPlatform(name)
