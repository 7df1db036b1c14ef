"""Uploads that were cut off, for the next process to go on with (distribution-spec, "Pushing a blob in
chunks").

A registry names a place for each upload and says how much it has of it. The place of a large one is written
down while it runs, in a file that its process holds locked: another process that pushes the same blob at the
same time makes an upload of its own. Whether an old place is still good is the registry's to say: zot and
others go on from any byte, distribution (docker-registry) only where a request ended, so there all is sent
anew.
"""

from __future__ import annotations

import os
import time
from hashlib import sha256

from anyarch.store.filelock import is_at, take

__all__ = ["UploadRecord", "UploadRecords"]

_WORTHWHILE = 8 << 20  # bytes; less is sent again as fast as it is asked for
_KEEP_S = 86400.0  # registries forget uploads after a day or a week


class UploadRecord:
    """Where the upload of one blob is. Without a file it remembers nothing."""

    def __init__(self, path: str = "", fd: int = -1) -> None:
        self._path = path
        self._fd = fd
        self.location = ""
        if fd >= 0:
            self.location = os.pread(fd, 1 << 16, 0).decode("ascii", errors="ignore").strip()

    def note(self, location: str) -> None:
        """The upload goes on at `location`."""
        if self._fd >= 0 and location != self.location:
            raw = location.encode("ascii", errors="ignore")
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, raw, 0)
        self.location = location

    def close(self, *, finished: bool) -> None:
        """Let go of it; what is `finished` is forgotten."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            if finished and os.path.exists(self._path):
                os.unlink(self._path)
            os.close(fd)


class UploadRecords:
    """Those of one directory; it is made when it is needed. Nothing here fails: what cannot be remembered is
    not."""

    def __init__(self, directory: str) -> None:
        self._directory = directory

    def take(self, repository: str, digest: str, size: int) -> UploadRecord:
        """The record of a blob of `size` bytes on its way to `repository` (its URL). The caller closes it."""
        if size < _WORTHWHILE:
            return UploadRecord()
        name = sha256(f"{repository}\n{digest}".encode()).hexdigest()
        path = f"{self._directory}/{name}"
        try:
            os.makedirs(self._directory, mode=0o700, exist_ok=True)
            self._clear()
            fd = _locked(path, os.O_CREAT)
            return UploadRecord(path, fd) if fd is not None else UploadRecord()
        except OSError:
            return UploadRecord()  # a directory that cannot be written to: uploads begin anew then

    def _clear(self) -> None:
        oldest = time.time() - _KEEP_S
        for name in os.listdir(self._directory):
            path = f"{self._directory}/{name}"
            if os.stat(path).st_mtime < oldest and (fd := _locked(path, 0)) is not None:
                os.unlink(path)
                os.close(fd)


def _locked(path: str, flags: int) -> int | None:
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | flags, 0o600)
    try:
        if take(fd, wait=False) and is_at(fd, path):
            return fd
    except OSError:
        pass  # there are no locks here
    os.close(fd)
    return None
