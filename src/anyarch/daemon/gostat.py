"""Modes of files as Go's `FileMode` has them, which travels in `fsutil.types.Stat`."""

from __future__ import annotations

import stat

__all__ = ["go_mode"]

_TYPES = {
    stat.S_IFREG: 0,
    stat.S_IFDIR: 1 << 31,
    stat.S_IFLNK: 1 << 27,
    stat.S_IFBLK: 1 << 26,
    stat.S_IFCHR: 1 << 26 | 1 << 21,
    stat.S_IFIFO: 1 << 25,
    stat.S_IFSOCK: 1 << 24,
}
_BITS = ((0o4000, 1 << 23), (0o2000, 1 << 22), (0o1000, 1 << 20))
_IRREGULAR = 1 << 19


def go_mode(mode: int) -> int:
    """Of a mode as `stat(2)` gives it."""
    made = mode & 0o777 | _TYPES.get(stat.S_IFMT(mode), _IRREGULAR)
    for unix, go in _BITS:
        if mode & unix:
            made |= go
    return made
