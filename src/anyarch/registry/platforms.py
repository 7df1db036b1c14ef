"""Which manifest of an index serves a platform (containerd's matching: exact first, then lower CPU
variants)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anyarch.errors import NoMatchingPlatform
from anyarch.spec import media
from anyarch.spec.intoto import REFERENCE_TYPE
from anyarch.spec.platform import Platform, compatible

if TYPE_CHECKING:
    from collections.abc import Callable

    from anyarch.spec.oci import Descriptor, Index

__all__ = ["available_platforms", "is_attestation", "select_manifest"]


def is_attestation(descriptor: Descriptor) -> bool:
    """Whether an index entry describes another entry instead of being an image."""
    if descriptor.annotations and REFERENCE_TYPE in descriptor.annotations:
        return True
    spec = descriptor.platform
    return spec is not None and spec.os == "unknown" and spec.architecture == "unknown"


def available_platforms(
    index: Index, platform_of: Callable[[Descriptor], Platform | None] | None = None
) -> list[tuple[Platform, Descriptor]]:
    """The images of an index with their platforms, in order. `platform_of` as for `select_manifest`."""
    result = []
    for descriptor in index.manifests:
        if is_attestation(descriptor) or descriptor.media_type in media.INDEXES:
            continue
        spec = descriptor.platform
        if spec is not None and (spec.os or spec.architecture):
            result.append((Platform.of_spec(spec), descriptor))
        elif platform_of is not None and (platform := platform_of(descriptor)) is not None:
            result.append((platform, descriptor))
    return result


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
    available = available_platforms(index, platform_of)
    for candidate in compatible(wanted):
        fitting = [
            (_features_rank(wanted, platform), position, descriptor)
            for position, (platform, descriptor) in enumerate(available)
            if (platform.os, platform.architecture, platform.variant)
            == (candidate.os, candidate.architecture, candidate.variant)
            and _version_fits(wanted.os_version, platform.os_version)
        ]
        if fitting:
            return min(fitting, key=lambda item: item[:2])[2]
    names = list(dict.fromkeys(str(platform) for platform, _ in available))
    where = f": {name} has no {wanted}" if name else f": there is no {wanted}"
    raise NoMatchingPlatform(
        "no match for platform in manifest" + where,
        available=names,
        hint=f"available: {', '.join(names)}" if names else "the index holds no image",
    )


def _version_fits(wanted: str, found: str) -> bool:
    """Windows images fit a host of the same build (the first three numbers); everything fits who does not
    ask."""
    if not wanted or not found:
        return True
    return wanted.split(".")[:3] == found.split(".")[:3]


def _features_rank(wanted: Platform, found: Platform) -> int:
    if found.os_features == wanted.os_features and (
        not wanted.os_version or found.os_version == wanted.os_version
    ):
        return 0
    return 1 if set(found.os_features) <= set(wanted.os_features) else 2
