"""The index of an OCI layout on disk: which manifest a tag names."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import msgspec

from anyarch.errors import CacheError
from anyarch.spec import media
from anyarch.spec.codec import convert
from anyarch.spec.oci import Descriptor, Index, decode, encode
from anyarch.store.whole_file import output_error, whole_file

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["set_tag"]

_TAG = "org.opencontainers.image.ref.name"


def set_tag(directory: Path, descriptor: dict[str, Any], tag: str) -> None:
    """Let `tag` name `descriptor` (JSON values); what other tags name stays. Raises `CacheError` and
    `OutputError`."""
    path = directory / "index.json"
    try:
        entry = convert(descriptor, Descriptor)
    except msgspec.ValidationError as error:
        raise CacheError(f"the builder names a cache that is no descriptor: {error}") from None
    notes = {**(entry.annotations or {}), _TAG: tag}
    try:
        kept = decode(Index, path.read_bytes()).manifests if path.exists() else ()
        kept = tuple(item for item in kept if (item.annotations or {}).get(_TAG, "latest") != tag)
        entry = msgspec.structs.replace(entry, annotations=notes)
        index = Index(schema_version=2, media_type=media.OCI_INDEX, manifests=(*kept, entry))
        with whole_file(directory / "oci-layout") as file:
            file.write(b'{"imageLayoutVersion":"1.0.0"}')
        with whole_file(path) as file:
            file.write(encode(index))
        if (directory / "ingest").is_dir() and not os.listdir(directory / "ingest"):
            (directory / "ingest").rmdir()
    except OSError as error:
        raise output_error(error, path) from error
