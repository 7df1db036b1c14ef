"""Files that are locked (flock) while somebody uses them, and may be removed when nobody does.

Between opening and locking a file another process may have taken it for a leftover: so who has the lock looks
whether the name still is the file's.
"""

from __future__ import annotations

import fcntl
import os

__all__ = ["is_at", "take"]


def take(fd: int, *, wait: bool) -> bool:
    """Lock the file for `fd` alone; False when another has it. Raises `OSError` where there are no locks."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_at(fd: int, path: str) -> bool:
    """Whether `path` is (still) the file that `fd` is open on."""
    try:
        there = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return False
    ours = os.fstat(fd)
    return (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)
