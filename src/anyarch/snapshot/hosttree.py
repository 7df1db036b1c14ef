"""A tree of files in a host directory, read in place: a build context.

The directory is scanned once. Contents are read when they are needed, and only if the file still is what
it was at the scan; one that changes during the build is an error that names it, never a mixture of old and
new.
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
import threading
import time
from typing import TYPE_CHECKING, BinaryIO, cast

from anyarch.archive.entry import Entry, Kind
from anyarch.errors import ContextError
from anyarch.snapshot.index import LayerIndex
from anyarch.snapshot.slices import FileSlice
from anyarch.snapshot.stack import Stack
from anyarch.snapshot.statcache import RACY_NS, StatCache, fingerprint
from anyarch.snapshot.view import MergedTree

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import NoReturn

    from anyarch.snapshot.view import Keep
    from anyarch.store.store import Store

__all__ = ["HostFile", "HostTree", "KnownContent"]

_KEPT_FILE = 64 << 10  # bytes: of larger files reading again costs less than the memory
_KEPT = 128 << 20
_TO_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK

_KINDS = {
    stat.S_IFREG: Kind.FILE,
    stat.S_IFDIR: Kind.DIRECTORY,
    stat.S_IFLNK: Kind.SYMLINK,
    stat.S_IFIFO: Kind.FIFO,
    stat.S_IFCHR: Kind.CHAR_DEVICE,
    stat.S_IFBLK: Kind.BLOCK_DEVICE,
}


class HostTree(MergedTree):
    """A `TreeView` of the directory `root`.

    Owners are 0, times are kept, extended attributes are not read (they are the machine's), hard links are
    files of their own, sockets are left out. `keep(path, is_directory)` leaves out: "no" a whole subtree,
    "descend" a directory unless something below it is kept. With `store`, digests of unchanged files are
    known from earlier builds. Raises `ContextError` naming the file when something cannot be read.
    """

    def __init__(self, root: str, *, keep: Keep | None = None, store: Store | None = None) -> None:
        super().__init__(Stack().on(None, lambda: self._tree))
        self.root = os.path.abspath(root)
        self._raw_root = os.fsencode(self.root)
        self._scanned_ns = time.time_ns()
        self._cache: StatCache | None = None
        if store is not None:
            self._cache = StatCache(store, self.root)
        self._cache_lock = threading.Lock()
        self._fingerprints: dict[str, bytes] = {}
        self._contents: dict[str, bytes] = {}  # of small files that were digested, until they are copied
        self._kept = 0
        self._tree = LayerIndex(self._scan(keep), explicit=True)

    def _open(self, position: int, entry: Entry) -> BinaryIO:
        known = self._contents.pop(entry.path, None)
        if known is not None:
            self._kept -= len(known)
            return KnownContent(known)
        return cast(BinaryIO, HostFile(self._raw_root, entry))

    def _digest_small(self, entries: list[Entry], digests: dict[str, bytes]) -> list[Entry]:
        """Digest small files, which are read once for that and for their copy; answers the other ones."""
        others = []
        sha256, contents, root = hashlib.sha256, self._contents, self._raw_root + b"/"
        kept = self._kept
        for entry in entries:
            size = entry.size
            if size > _KEPT_FILE:
                others.append(entry)
                continue
            path = entry.path
            try:
                fd = os.open(root + path.encode("utf-8", "surrogateescape"), _TO_READ)
            except OSError:
                others.append(entry)  # `HostFile` says what is wrong
                continue
            try:
                now = os.fstat(fd)
                data = os.read(fd, size) if size else b""
            finally:
                os.close(fd)
            if (now.st_size, now.st_mtime_ns, len(data)) != (size, entry.mtime_ns, size):
                others.append(entry)
                continue
            if kept + size <= _KEPT:
                contents[path] = data
                kept += size
            digests[path] = sha256(data).digest()
        self._kept = kept
        return others

    def _digest_files(self, position: int, entries: list[Entry]) -> dict[str, bytes]:
        from anyarch.snapshot.filehash import hash_files

        computed: dict[str, bytes] = {}
        others = self._digest_small(entries, computed)
        if others:
            computed.update(hash_files(others, lambda entry: HostFile(self._raw_root, entry)))
        self._tree.learn(computed)
        if self._cache is not None:
            limit = self._scanned_ns - RACY_NS
            new = {}
            for path, digest in computed.items():
                mark = self._fingerprints.get(path)
                if mark is not None and _newest(mark) < limit:
                    new[path] = mark + digest
            if new:
                with self._cache_lock:
                    self._cache.save(new)
        return computed

    # -- the scan

    def _scan(self, keep: Keep | None) -> list[Entry]:
        try:
            top = os.stat(self.root)
        except OSError as error:
            raise ContextError(f"build context {self.root}: {error.strerror}") from error
        if not stat.S_ISDIR(top.st_mode):
            raise ContextError(f"build context {self.root} is not a directory")
        entries = [Entry("", Kind.DIRECTORY, stat.S_IMODE(top.st_mode), mtime_ns=top.st_mtime_ns)]
        known = self._cache.records if self._cache is not None else {}
        pending: list[Entry] = []  # nested directories, each to be added when something below it is
        stack = [self._listing("")]
        while stack:
            item = next(stack[-1], None)
            if item is None:
                stack.pop()
                continue
            path, found = item
            is_directory = found.is_dir(follow_symlinks=False)
            verdict = "yes" if keep is None else keep(path, is_directory)
            if verdict == "no" or (verdict == "descend" and not is_directory):
                continue
            try:
                entry = self._entry(path, found, known)
            except FileNotFoundError:
                continue  # gone since its directory was read, as if it never was
            except OSError as error:
                self._refuse(path, error)
            if entry is None:
                continue
            if pending:
                while pending and not path.startswith(pending[-1].path + "/"):
                    pending.pop()
                if verdict == "yes":
                    entries += pending
                    pending.clear()
            (entries if verdict == "yes" else pending).append(entry)
            if is_directory:
                stack.append(self._listing(path))
        return entries

    def _listing(self, path: str) -> Iterator[tuple[str, os.DirEntry[bytes]]]:
        try:
            with os.scandir(self._raw_path(path)) as scan:
                found = [(_text(one.name), one) for one in scan]
        except FileNotFoundError:
            found = []  # gone since its parent was read
        except OSError as error:
            self._refuse(path, error)
        found.sort(key=_name)
        prefix = f"{path}/" if path else ""
        return iter([(prefix + name, one) for name, one in found])

    def _raw_path(self, path: str) -> bytes:
        return b"%b/%b" % (self._raw_root, path.encode("utf-8", "surrogateescape"))

    def _entry(self, path: str, found: os.DirEntry[bytes], known: dict[str, bytes]) -> Entry | None:
        status = found.stat(follow_symlinks=False)
        mode = status.st_mode
        if stat.S_ISREG(mode):
            digest = b""
            if self._cache is not None:
                mark = fingerprint(status)
                record = known.get(path)
                if record is not None and record.startswith(mark):
                    digest = record[len(mark) :]
                else:
                    self._fingerprints[path] = mark
            return Entry(
                path, Kind.FILE, mode & 0o7777, 0, 0, status.st_mtime_ns, status.st_size, digest=digest
            )
        kind = _KINDS.get(stat.S_IFMT(mode))
        match kind:
            case None:
                return None  # a socket
            case Kind.SYMLINK:
                return Entry(
                    path, kind, 0o777, 0, 0, status.st_mtime_ns, 0, _text(os.readlink(self._raw_path(path)))
                )
            case Kind.CHAR_DEVICE | Kind.BLOCK_DEVICE:
                major, minor = os.major(status.st_rdev), os.minor(status.st_rdev)
                return Entry(path, kind, mode & 0o7777, mtime_ns=status.st_mtime_ns, major=major, minor=minor)
        return Entry(path, kind, mode & 0o7777, mtime_ns=status.st_mtime_ns)

    def _refuse(self, path: str, error: OSError) -> NoReturn:
        raise ContextError(
            f"cannot read {path or '.'} in the build context {self.root}: {error.strerror}",
            hint="make it readable for this user, or exclude it in .dockerignore",
        ) from error


class KnownContent(io.BytesIO):
    """Content of a file that is in memory since it was digested."""


class HostFile(FileSlice):
    """Content of one file of a `HostTree`. Every trouble is a `ContextError` that names the file."""

    def __init__(self, root: bytes, entry: Entry) -> None:
        super().__init__(b"%b/%b" % (root, entry.path.encode("utf-8", "surrogateescape")), 0, entry.size)
        self._entry = entry

    def changed(self) -> ContextError:
        """The error for a file that is not what it was when the build began."""
        return ContextError(
            f"file changed during the build: {self._entry.path}",
            hint="run the build again when nothing writes to the build context",
        )

    def _open(self) -> int:
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            raise self.changed() from None
        except OSError as error:
            raise ContextError(
                f"cannot read {self._entry.path} in the build context: {error.strerror}",
                hint="make it readable for this user, or exclude it in .dockerignore",
            ) from error
        now = os.fstat(fd)
        if (now.st_size, now.st_mtime_ns) != (self._entry.size, self._entry.mtime_ns):
            os.close(fd)
            raise self.changed()
        return fd

    def _short(self) -> NoReturn:
        raise self.changed()


def _name(item: tuple[str, object]) -> str:
    return item[0]


def _text(raw: bytes) -> str:
    """Entries speak UTF-8 whatever the locale."""
    return raw.decode("utf-8", "surrogateescape")


def _newest(mark: bytes) -> int:
    """The later of modification and change time in a fingerprint, in nanoseconds."""
    return max(
        int.from_bytes(mark[24:32], "little", signed=True), int.from_bytes(mark[32:40], "little", signed=True)
    )
