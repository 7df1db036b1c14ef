"""Blobs on their way: what a process that was killed had of a large one is where the next goes on.

An unfinished blob lies under its digest and is locked (flock) by whoever writes it. Nothing about it is
believed: what is there is hashed again when it is taken up, and the whole is checked before it gets the
blob's name. A part that turns out wrong is thrown away.
"""

from __future__ import annotations

import errno
import hashlib
import os
import time

from anyarch.spec.digest import Digest
from anyarch.store.filelock import is_at, take

__all__ = ["KEEP_S", "Partial", "clear_partials", "ingest_file", "partial_of"]

KEEP_S = 3 * 86400.0
"""How long a part waits for somebody to go on with it."""

_WORTHWHILE = 1 << 20  # bytes; asking for the rest of less saves nothing
_PIECE = 1 << 20
_PARTS = ("sha256-", "sha384-", "sha512-")


class Partial:
    """A file that is being written and ours alone. `hash` is of the `offset` bytes that it has. Raises
    `OSError`."""

    def __init__(self, path: str, fd: int, algorithm: str, *, is_resumable: bool) -> None:
        self.path = path
        self.fd = fd
        self.hash = hashlib.new(algorithm)
        self.offset = 0
        self.is_resumable = is_resumable

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Append all of `data`."""
        view = memoryview(data)
        self.hash.update(view)
        left = view
        while left:
            left = left[os.write(self.fd, left) :]
        self.offset += view.nbytes
        return view.nbytes

    @property
    def digest(self) -> Digest:
        """Of what was written so far."""
        return Digest(f"{self.hash.name}:{self.hash.hexdigest()}")

    def publish(self, target: str) -> None:
        """Sync it and give it its name; what had the name before is replaced."""
        os.fsync(self.fd)
        try:
            os.rename(self.path, target)
        except FileNotFoundError:
            os.makedirs(os.path.dirname(target), exist_ok=True)
            os.rename(self.path, target)
        self._close()

    def keep(self) -> None:
        """Leave what is worth going on with; nothing after `publish`."""
        if self.fd >= 0 and not (self.is_resumable and self.offset >= _WORTHWHILE):
            self.discard()
        self._close()

    def discard(self) -> None:
        """Remove it; nothing after `publish`."""
        if self.fd >= 0 and os.path.lexists(self.path):
            os.unlink(self.path)
        self._close()

    def _close(self) -> None:
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


def partial_of(directory: str, digest: str, size: int) -> Partial | None:
    """The part of a blob of `size` bytes that `directory` has, ready to be gone on with, perhaps empty. None
    when the blob is too small for that, or somebody else is writing it: then it is written under a name of
    its own."""
    if size < _WORTHWHILE:
        return None
    parsed = Digest.parse(digest)
    fd = _take(f"{directory}/{parsed.algorithm}-{parsed.hex}", wait=False)
    if fd is None:
        return None
    partial = Partial(f"{directory}/{parsed.algorithm}-{parsed.hex}", fd, parsed.algorithm, is_resumable=True)
    try:
        if os.fstat(fd).st_size > size:
            os.ftruncate(fd, 0)
        while piece := os.read(fd, _PIECE):
            partial.hash.update(piece)
            partial.offset += len(piece)
    except BaseException:
        partial.discard()
        raise
    return partial


def ingest_file(directory: str, name: str, algorithm: str = "sha256") -> Partial:
    """A new file in `directory` that the next `clear_partials` removes should we die."""
    path = f"{directory}/{name}"
    fd = None
    while fd is None:
        fd = _take(path, wait=True)
    os.ftruncate(fd, 0)
    return Partial(path, fd, algorithm, is_resumable=False)


def clear_partials(directory: str, *, older_s: float = KEEP_S) -> None:
    """Remove what nobody is writing: parts of blobs that are older, and all else."""
    try:
        names = os.listdir(directory)
    except (FileNotFoundError, NotADirectoryError):
        return
    oldest = time.time() - older_s
    for name in names:
        path = f"{directory}/{name}"
        try:
            if name.startswith(_PARTS) and os.stat(path).st_mtime > oldest:
                continue
            fd = _take(path, wait=False, create=False)
            if fd is not None:
                os.unlink(path)
                os.close(fd)
        except OSError:
            continue  # it went by itself, or is not ours to clear


def _take(path: str, *, wait: bool, create: bool = True) -> int | None:
    """The file, opened and locked; None when somebody has it, or took it away meanwhile."""
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | (os.O_CREAT if create else 0)
    try:
        fd = os.open(path, flags, 0o644)
    except FileNotFoundError:
        if not create:
            return None
        os.makedirs(os.path.dirname(path), exist_ok=True)
        fd = os.open(path, flags, 0o644)
    try:
        if take(fd, wait=wait) and is_at(fd, path):
            return fd  # else it is another's, or was renamed between opening and locking
    except OSError as error:
        if wait and error.errno in (errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL):
            return fd  # a file system without locks: it is written all the same, and not gone on with
    except BaseException:
        os.close(fd)
        raise
    os.close(fd)
    return None
