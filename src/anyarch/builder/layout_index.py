"""The index of an OCI layout on disk: which manifest a tag names."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from anyarch.errors import CacheError
from anyarch.spec.codec import convert
from anyarch.spec.oci import Descriptor
from anyarch.store.layout import REF_NAME, change_index, close_layout, locked, open_layout, with_tag
from anyarch.store.whole_file import output_error

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["set_tag"]


def set_tag(directory: Path, descriptor: dict[str, Any], tag: str) -> None:
    """Let `tag` name `descriptor` (JSON values); what other tags name stays. Raises `CacheError` and
    `OutputError`."""
    try:
        entry = convert(descriptor, Descriptor)
    except msgspec.ValidationError as error:
        raise CacheError(f"the builder names a cache that is no descriptor: {error}") from None
    notes = {**(entry.annotations or {}), REF_NAME: tag}
    entry = msgspec.structs.replace(entry, annotations=notes)
    layout = str(directory)
    try:
        open_layout(layout)
        with locked(layout):
            change_index(layout, partial(with_tag, entry, tag))
        close_layout(layout)
    except OSError as error:
        raise output_error(error, directory / "index.json") from error
