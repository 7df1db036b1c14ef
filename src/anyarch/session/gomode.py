"""Modes of files as Go's `io/fs.FileMode` has them, which travel in `fsutil.types.Stat`. Their type bits are
not Unix's."""

from __future__ import annotations

import stat

__all__ = ["go_mode", "unix_mode"]

_TYPES = {
    stat.S_IFREG: 0,
    stat.S_IFDIR: 1 << 31,
    stat.S_IFLNK: 1 << 27,
    stat.S_IFBLK: 1 << 26,
    stat.S_IFCHR: 1 << 26 | 1 << 21,
    stat.S_IFIFO: 1 << 25,
    stat.S_IFSOCK: 1 << 24,
}
_IRREGULAR = 1 << 19
_UNIX_TYPES = {go: unix for unix, go in _TYPES.items()}
_ALL_TYPES = _IRREGULAR | sum(1 << bit for bit in (31, 27, 26, 25, 24, 21))
_BITS = ((0o4000, 1 << 23), (0o2000, 1 << 22), (0o1000, 1 << 20))


def go_mode(mode: int) -> int:
    """Of a mode as `stat(2)` gives it."""
    made = mode & 0o777 | _TYPES.get(stat.S_IFMT(mode), _IRREGULAR)
    if mode & 0o7000:
        for unix, go in _BITS:
            if mode & unix:
                made |= go
    return made


def unix_mode(mode: int) -> int | None:
    """As `stat(2)` gives it; None for a type that Unix does not know."""
    kind = _UNIX_TYPES.get(mode & _ALL_TYPES)
    if kind is None:
        return None
    made = mode & 0o777 | kind
    for unix, go in _BITS:
        if mode & go:
            made |= unix
    return made
