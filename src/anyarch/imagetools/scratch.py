"""Directories for what is made on the way, which do not outlive the processes that made them."""

from __future__ import annotations

import os
import shutil
import tempfile

from anyarch.store.filelock import is_at, take

__all__ = ["scratch_directory"]


def scratch_directory(parent: str, prefix: str = ".anyarch-copy-") -> tuple[str, int]:
    """A new directory in `parent`, and the number of the lock that shows that it is in use: for the caller to
    remove and to close. Those that killed processes of ours left are removed. Raises `OSError`."""
    for name in os.listdir(parent):
        path = f"{parent}/{name}"
        if name.startswith(prefix) and (fd := _lock_directory(path)) is not None:
            shutil.rmtree(path, ignore_errors=True)
            os.close(fd)
    while True:
        path = tempfile.mkdtemp(prefix=prefix, dir=parent)
        if (fd := _lock_directory(path)) is not None:
            return path, fd


def _lock_directory(path: str) -> int | None:
    """None when it is in use, another user's, or gone."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    if os.fstat(fd).st_uid == os.geteuid() and take(fd, wait=False) and is_at(fd, path):
        return fd
    os.close(fd)
    return None
