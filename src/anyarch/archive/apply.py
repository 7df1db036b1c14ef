"""Unpack entries into a directory without ever leaving it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable

    from anyarch.archive.entry import Entry
    from anyarch.archive.tar import Readable

__all__ = ["Unpacked", "Unpacker", "apply_tar"]

Whiteouts = Literal["overlay-trusted", "overlay-user", "delete"]


class Unpacked(msgspec.Struct, frozen=True):
    """`skipped`: (path, reason) of what could not be made (devices, privileged attributes)."""

    entries: int
    size: int
    skipped: tuple[tuple[str, str], ...] = ()


class Unpacker:
    """Context manager. `put` entries in any order, then `finish`. `parent(path)` may give the attributes of
    directories that are needed but have no entry (default 0755, 0:0)."""

    def __init__(
        self,
        directory: str | int,
        *,
        whiteouts: Whiteouts,
        chown: bool = True,
        ids: Callable[[int, int], tuple[int, int]] | None = None,
        parent: Callable[[str], Entry | None] | None = None,
        keep_root: bool = False,
    ) -> None: ...

    def put(self, entry: Entry, content: Readable | bytes | None = None) -> None: ...

    def finish(self) -> Unpacked: ...


def apply_tar(
    source: Readable,
    directory: str | int,
    *,
    whiteouts: Whiteouts,
    chown: bool = True,
    ids: Callable[[int, int], tuple[int, int]] | None = None,
    parent: Callable[[str], Entry | None] | None = None,
    on_entry: Callable[[Entry], object] | None = None,
) -> Unpacked:
    """Unpack the (uncompressed) tar `source`. MalformedArchive, NoSpace, StoreError."""
