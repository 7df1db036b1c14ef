"""Who is alive: one flock'd file per open store, so that leftovers of the dead are told from work in
progress.

A process that has the store open holds `locks/<token>` locked; the kernel drops the lock however the
process ends. Everything unfinished carries the token as the first part of its name (`<token>.<n>`).
Whoever finds a token whose lock is free (or whose file is gone) clears what bears it. The lock file goes
last, so a crash of the cleaner changes nothing.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from anyarch.store.failure import disk_errors
from anyarch.store.filelock import is_at, take

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["DeadOwner", "Liveness", "owner_of"]


def owner_of(name: str) -> str:
    """The token in the name of something unfinished."""
    return name.partition(".")[0]


class DeadOwner:
    """A token that nobody alive bears. While this is held no other process clears the same; `release` it."""

    def __init__(self, token: str, path: str, fd: int) -> None:
        self.token = token
        self._path = path
        self._fd = fd

    def release(self, *, cleared: bool) -> None:
        """Give it up; `cleared` says that nothing of it is left, so the lock file can go."""
        try:
            if cleared:
                os.unlink(self._path)
        except FileNotFoundError:
            cleared = True
        finally:
            os.close(self._fd)


class Liveness:
    """Our own token, and the question whether others are alive."""

    def __init__(self, directory: Path) -> None:
        self._directory = str(directory)
        self._count = 0
        with disk_errors(directory):
            while True:
                self.token = f"{os.getpid()}-{os.urandom(6).hex()}"
                self._path = f"{self._directory}/{self.token}"
                self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
                # Between creating and locking it, a cleaner may have taken the file for a dead owner's.
                if take(self._fd, wait=True) and is_at(self._fd, self._path):
                    break
                os.close(self._fd)

    def dead(self, candidates: set[str]) -> list[DeadOwner]:
        """Those of `candidates`, and of all lock files, whose process is gone; each is held until
        released."""
        found = []
        for token in sorted((candidates | set(os.listdir(self._directory))) - {self.token}):
            path = f"{self._directory}/{token}"
            # A leftover without a lock file can only come from a process that is gone: the file is made
            # before the first leftover. It is made again here so that two cleaners exclude one another.
            again = os.O_CREAT if token in candidates else 0
            try:
                fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | again, 0o644)
            except OSError:
                continue  # not ours to clear (another user's), or it ended meanwhile
            if take(fd, wait=False) and is_at(fd, path):
                found.append(DeadOwner(token, path, fd))
            else:
                os.close(fd)
        return found

    @property
    def fd(self) -> int:
        """Our lock file, open for reading and writing while we are alive."""
        return self._fd

    def living(self, but: str = "") -> list[int]:
        """The lock files of all that are alive, but of the token `but`, open for reading; the caller closes
        them."""
        found = []
        for token in sorted(set(os.listdir(self._directory)) - {but}):
            path = f"{self._directory}/{token}"
            try:
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                continue  # it ended meanwhile
            if token != self.token and take(fd, wait=False):
                os.close(fd)
            else:
                found.append(fd)
        return found

    def close(self, *, cleared: bool) -> None:
        """Stop being alive. Without `cleared` the lock file stays, for the next open to clear what is
        left."""
        if self._fd < 0:
            return
        if cleared:
            try:
                os.unlink(self._path)
            except FileNotFoundError:
                cleared = False
        os.close(self._fd)
        self._fd = -1
