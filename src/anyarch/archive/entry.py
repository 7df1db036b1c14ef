"""One entry of a layer: what the tar header, the layer index and the content keys all speak of."""

from __future__ import annotations

import stat
from enum import IntEnum

import msgspec

__all__ = ["TYPE_BITS", "Entry", "Kind"]


class Kind(IntEnum):
    """Kind of an entry. `WHITEOUT` removes the path of lower layers (tar: `.wh.NAME`)."""

    FILE = 0
    DIRECTORY = 1
    SYMLINK = 2
    HARDLINK = 3
    CHAR_DEVICE = 4
    BLOCK_DEVICE = 5
    FIFO = 6
    WHITEOUT = 7


TYPE_BITS = {
    Kind.FILE: stat.S_IFREG,
    Kind.HARDLINK: stat.S_IFREG,
    Kind.DIRECTORY: stat.S_IFDIR,
    Kind.SYMLINK: stat.S_IFLNK,
    Kind.CHAR_DEVICE: stat.S_IFCHR,
    Kind.BLOCK_DEVICE: stat.S_IFBLK,
    Kind.FIFO: stat.S_IFIFO,
}
"""What a file of each kind has in `stat.st_mode` beside its permissions; a whiteout is no file."""


class Entry(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One path of a layer.

    `path`      relative to the root, `/`-separated, clean, no leading or trailing slash; the root is "".
                Bytes that are not UTF-8 are kept by surrogateescape.
    `mode`      the low 12 permission bits only.
    `mtime_ns`  nanoseconds since the epoch.
    `size`      bytes of content of a FILE, else 0.
    `linkname`  target of a SYMLINK (verbatim) or HARDLINK (a path like `path`).
    `xattrs`    sorted pairs of (name, value); overlay's own attributes are never among them.
    `opaque`    of a DIRECTORY: lower layers' content of this directory is hidden (tar: `.wh..wh..opq` in it).
    `digest`    sha256 (32 bytes) of the content of a FILE, b"" while not known.
    `offset`    position of the content in the layer's uncompressed tar, -1 when it has none.
    """

    path: str
    kind: Kind
    mode: int = 0
    uid: int = 0
    gid: int = 0
    mtime_ns: int = 0
    size: int = 0
    linkname: str = ""
    major: int = 0
    minor: int = 0
    xattrs: tuple[tuple[str, bytes], ...] = ()
    opaque: bool = False
    digest: bytes = b""
    offset: int = -1
