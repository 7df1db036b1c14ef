"""Parts of an image (`build --part DIR`): OCI layouts that `merge` joins.

Each part of a directory has a record `parts/<digest>.json`, a file of its own: directories of several runners
that are copied into one stay what they are, though each brings an index.json.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import msgspec

from anyarch.spec.codec import json_decoder
from anyarch.spec.oci import Descriptor, encode
from anyarch.store.whole_file import whole_file

if TYPE_CHECKING:
    from pathlib import Path

    from anyarch.exporter.assemble import AssembledImage

__all__ = ["PartRecord", "write_part_record"]


class PartRecord(msgspec.Struct, frozen=True):
    """`descriptor` is that of the part's index; `platforms` are what it holds."""

    descriptor: Descriptor
    platforms: tuple[str, ...] = ()
    version: int = 1


def write_part_record(directory: Path, image: AssembledImage) -> None:
    """Say that `directory` holds `image` as a part. Records of earlier builds of the same platforms go.
    OSError."""
    platforms = tuple(item.platform.format_all() for item in image.platforms)
    parts = directory / "parts"
    parts.mkdir(exist_ok=True)
    mine = parts / f"{image.root.digest.hex}.json"
    with whole_file(mine) as out:
        out.write(encode(PartRecord(image.descriptor, platforms)))
    for path in sorted(parts.glob("*.json")):
        if path == mine:
            continue
        try:
            old = json_decoder(PartRecord).decode(path.read_bytes())
        except (FileNotFoundError, msgspec.DecodeError, msgspec.ValidationError):
            continue  # not ours, or another build replaced it just now
        if set(old.platforms) <= set(platforms):
            os.unlink(path)
