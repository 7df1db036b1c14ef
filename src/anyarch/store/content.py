"""Content store: complete blobs under their digest (`blobs/sha256/<hex>`), as in an OCI layout.

A blob is written to `ingest/` (or `partial/`, see that module), digested on the way, synced and renamed,
so whatever has its name is complete. The file itself says that a blob is there; the database only keeps
sizes and times for garbage collection.
"""

from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from anyarch.errors import BlobNotFound, DigestMismatch, StoreError
from anyarch.spec.digest import Digest
from anyarch.store.failure import disk_errors, storage_error
from anyarch.store.partial import Partial, partial_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

__all__ = ["BlobWriter", "ContentStore"]


class ContentStore:
    """Thread-safe. `unfinished()` gives a new path in `ingest/`; `committed(digest, size)` is told of each
    new blob, `hold(digest)` of each that is about to be looked for (see `leases`)."""

    def __init__(
        self,
        root: Path,
        *,
        unfinished: Callable[[], str],
        committed: Callable[[Digest, int], object],
        hold: Callable[[str], object] = lambda digest: None,
    ) -> None:
        self._blobs = f"{root}/blobs"
        self._partial = f"{root}/partial"
        self._hold = hold
        self._unfinished = unfinished
        self._committed = committed
        self._making_directories = threading.Lock()

    def path(self, digest: str) -> Path:
        """Where the blob lies, or would lie."""
        return Path(self._file(digest))

    def _file(self, digest: str) -> str:
        algorithm, _, hexdigits = digest.partition(":")
        if not hexdigits or "/" in digest:
            Digest.parse(digest)  # raises: nothing foreign may become a path
        self._hold(digest)
        return f"{self._blobs}/{algorithm}/{hexdigits}"

    def has(self, digest: str) -> bool:
        return os.path.exists(self._file(digest))

    def size(self, digest: str) -> int:
        """Size in bytes; `BlobNotFound`."""
        try:
            return os.stat(self._file(digest)).st_size
        except FileNotFoundError:
            raise _missing(digest) from None

    def open(self, digest: str) -> BinaryIO:
        """The blob for reading, not verified; `BlobNotFound`. The caller closes it."""
        try:
            return open(self._file(digest), "rb", buffering=0)
        except FileNotFoundError:
            raise _missing(digest) from None

    def read(self, digest: str) -> bytes:
        """A small blob, verified. `BlobNotFound`; `StoreError` when its bytes are damaged: it is removed
        then."""
        with self.open(digest) as file:
            raw = file.read()
        if hashlib.new(Digest.parse(digest).algorithm, raw).hexdigest() != digest.partition(":")[2]:
            self.remove(digest)
            raise StoreError(
                f"the stored blob {digest} is damaged and was removed",
                hint="run the build again: it is fetched or made anew; a failing disk may be the cause",
            )
        return raw

    def put(self, raw: bytes) -> Digest:
        """Store a small blob."""
        digest = Digest.of(raw)
        try:
            if os.stat(self._file(digest)).st_size == len(raw):
                return digest
        except FileNotFoundError:
            pass  # the usual case: it is new
        with self.writer(expected=digest) as writer:
            writer.write(raw)
            return writer.commit()

    def writer(
        self, *, expected: str | None = None, size: int | None = None, resume: bool = False
    ) -> BlobWriter:
        """A writer for one blob that must turn out as announced (when it was). With `resume` what another
        writer left unfinished is gone on with: write from the writer's `offset` on, which may be all there
        is."""
        if expected is not None:
            expected = Digest.parse(expected)
        part: Partial | None = None
        if resume and expected is not None and size is not None:
            with disk_errors(self._partial):
                part = partial_of(self._partial, expected, size)
        if part is None:
            path = self._unfinished()
            with disk_errors(path):
                fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
            algorithm = expected.partition(":")[0] if expected else "sha256"
            part = Partial(path, fd, algorithm, is_resumable=False)
        return BlobWriter(self, part, expected=expected, size=size)

    def adopt(self, file: str, digest: Digest, size: int) -> Digest:
        """Make a complete file of the same file system a blob without copying it (a hard link: it must not
        change any more). The caller vouches for `digest`."""
        link = self._unfinished()
        with disk_errors(link):
            os.link(file, link)
            fd = os.open(link, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
            self._publish(link, digest, size)
        return digest

    def remove(self, digest: str) -> None:
        """Remove a blob; none there is no error."""
        with disk_errors(self._blobs):
            try:
                os.unlink(self._file(digest))
            except FileNotFoundError:
                return

    def __iter__(self) -> Iterator[Digest]:
        """All blobs, unordered."""
        for algorithm in _listdir(self._blobs):
            for name in _listdir(f"{self._blobs}/{algorithm}"):
                yield Digest(f"{algorithm}:{name}")

    def _publish(self, source: str, digest: Digest, size: int) -> None:
        target = self._file(digest)
        try:
            os.rename(source, target)
        except FileNotFoundError:
            with self._making_directories:
                os.makedirs(os.path.dirname(target), exist_ok=True)
            os.rename(source, target)
        if os.path.lexists(source):  # two names of one file: rename(2) does nothing then
            os.unlink(source)
        self._committed(digest, size)

    def announce(self, digest: Digest, size: int) -> None:
        """A blob has got its name."""
        self._committed(digest, size)


class BlobWriter:
    """Context manager; leaving it without `commit` discards what was written, or keeps it for the next writer
    where that was asked for and the bytes are not known to be wrong. Not thread-safe.

    `offset` is how many bytes there are so far.
    """

    def __init__(self, store: ContentStore, part: Partial, *, expected: str | None, size: int | None) -> None:
        self._store = store
        self._part = part
        self._expected = expected
        self._size = size

    @property
    def offset(self) -> int:
        return self._part.offset

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Append all of `data`; answers its length. `NoSpace`, `StoreError`."""
        try:
            return self._part.write(data)
        except OSError as error:
            raise storage_error(error, self._part.path) from error

    def commit(self) -> Digest:
        """Publish the blob. `DigestMismatch` when it is not what was announced; `NoSpace`, `StoreError`."""
        digest = self._part.digest
        if self._size is not None and self.offset != self._size:
            raise DigestMismatch(
                f"blob {self._expected or digest}: {self.offset} bytes instead of {self._size}",
                hint="the transfer was cut short or the source is damaged; try again",
            )
        if self._expected is not None and digest != self._expected:
            raise DigestMismatch(
                f"blob {self._expected} has digest {digest}",
                hint="the bytes were changed on the way, or the source is damaged",
            )
        with disk_errors(self._part.path):
            if self._store.has(digest) and self._store.size(digest) == self.offset:
                self._part.discard()
                return digest
            self._part.publish(str(self._store.path(digest)))
        self._store.announce(digest, self.offset)
        return digest

    def discard(self) -> None:
        """Drop what was written; nothing after `commit`."""
        self._part.discard()

    def __enter__(self) -> BlobWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, (DigestMismatch, StoreError)):
            self._part.discard()
        else:
            self._part.keep()


def _missing(digest: str) -> BlobNotFound:
    return BlobNotFound(
        f"blob {digest} is not in the store",
        hint="run the build again: it is fetched or made anew when needed",
    )


def _listdir(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except (FileNotFoundError, NotADirectoryError):
        return []
