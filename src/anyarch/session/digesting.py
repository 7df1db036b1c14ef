"""Digests of large files while they are being received, so that nobody has to read them again afterwards."""

from __future__ import annotations

import hashlib
import os
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["WORTHWHILE", "DigestingThread"]

WORTHWHILE = 1 << 20
"""Bytes; smaller files are digested when somebody wants them."""
_STEP = 1 << 20
_AT_ONCE = 32  # files: each keeps a descriptor


class _Growing:
    def __init__(self, path: str, fd: int) -> None:
        self.path = path
        self.fd = fd
        self.size = 0
        self.is_whole = False
        self.digested = 0
        self.sha256 = hashlib.sha256()


class DigestingThread:
    """Follows the files that it is told of by reading them behind the writer, from the page cache. The writer
    never waits for it and nothing is kept in memory. Each file is written from its beginning to its end,
    once.

    For one writing thread; `digests` may be asked for on any other. `close` ends it, whatever it is at.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._files: dict[str, _Growing] = {}
        self._digests: dict[str, bytes] = {}
        self._thread: threading.Thread | None = None
        self._is_closed = False

    def begin(self, path: str, fd: int) -> None:
        """`path` is empty, and written through `fd`, which has to be readable too. Where too many files are
        followed already this one is left out."""
        if len(self._files) >= _AT_ONCE:
            return
        with self._changed:
            self._files[path] = _Growing(path, os.dup(fd))
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="anyarch-digest", daemon=True)
            self._thread.start()

    def written(self, path: str, size: int) -> None:
        """So many bytes more."""
        file = self._files.get(path)
        if file is None:
            return
        file.size += size
        if file.size - file.digested >= _STEP:
            with self._changed:
                self._changed.notify_all()

    def end(self, path: str) -> None:
        """The file is whole."""
        file = self._files.get(path)
        if file is not None:
            with self._changed:
                file.is_whole = True
                self._changed.notify_all()

    def digests(self) -> Mapping[str, bytes]:
        """sha256 of the files that are whole, by path; waits for those that are still read."""
        with self._changed:
            while not self._is_closed and any(file.is_whole for file in self._files.values()):
                self._changed.wait()
            return dict(self._digests)

    def close(self) -> None:
        """Idempotent."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        for file in self._files.values():
            os.close(file.fd)
        self._files.clear()

    def _run(self) -> None:
        while True:
            with self._changed:
                file = self._next()
                while file is None and not self._is_closed:
                    self._changed.wait()
                    file = self._next()
                if file is None or self._is_closed:
                    return
                is_whole = file.is_whole
            try:
                data = os.pread(file.fd, _STEP, file.digested)
            except OSError:
                data = b""
            file.sha256.update(data)
            file.digested += len(data)
            if not data or (is_whole and file.digested >= file.size):
                self._finish(file, is_good=file.digested == file.size)

    def _next(self) -> _Growing | None:
        for file in self._files.values():
            if file.is_whole or file.size - file.digested >= _STEP:
                return file
        return None

    def _finish(self, file: _Growing, *, is_good: bool) -> None:
        """A file that cannot be read as it was written has no digest here: whoever reads it next says what is
        wrong."""
        with self._changed:
            os.close(file.fd)
            del self._files[file.path]
            if is_good:
                self._digests[file.path] = file.sha256.digest()
            self._changed.notify_all()
