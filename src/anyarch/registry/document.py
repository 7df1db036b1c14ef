"""What kind of document a manifest's bytes are."""

from __future__ import annotations

import msgspec

from anyarch.errors import UnsupportedMedia
from anyarch.spec import media
from anyarch.spec.codec import json_decoder

__all__ = ["media_type_of"]


class _Head(msgspec.Struct, frozen=True, rename="camel"):
    schema_version: int = 0
    media_type: str = ""
    manifests: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    config: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    layers: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    fs_layers: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


def media_type_of(raw: bytes, announced: str = "", *, name: str = "manifest") -> str:
    """The media type of a manifest or index: what the document says of itself, else `announced` (its
    Content-Type or descriptor), else what its fields show.

    Raises `UnsupportedMedia` for schema 1, for text that is no such document, and for one that can be read
    both as an index and as a manifest (CVE-2021-41190).
    """
    try:
        head = json_decoder(_Head).decode(raw)
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError):
        raise UnsupportedMedia(f"{name}: neither an image manifest nor an index") from None
    has_manifests = head.manifests is not msgspec.UNSET
    has_layers = head.layers is not msgspec.UNSET or head.config is not msgspec.UNSET
    if (
        head.schema_version == 1
        or head.fs_layers is not msgspec.UNSET
        or head.media_type in media.DOCKER_SCHEMA1
    ):
        raise UnsupportedMedia(
            f"{name}: it is in Docker's image format 1 (schema 1), which is not supported",
            hint="pull and push it with a tool of 2017 or later, which writes the current format",
        )
    if has_manifests and has_layers:
        raise UnsupportedMedia(f"{name}: ambiguous: it has the fields of an index and of a manifest")
    kind = head.media_type or announced
    if kind not in media.INDEXES | media.MANIFESTS:
        if not has_manifests and not has_layers:
            return kind
        kind = media.OCI_INDEX if has_manifests else media.OCI_MANIFEST
    if (kind in media.INDEXES and has_layers) or (kind in media.MANIFESTS and has_manifests):
        raise UnsupportedMedia(f"{name}: its fields are not those of its media type {kind}")
    return kind
