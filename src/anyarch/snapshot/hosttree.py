"""A tree of files in a host directory, read in place: a build context.

The directory is scanned once. Contents are read when they are needed, and only if the file still is what
it was at the scan; one that changes during the build is an error that names it, never a mixture of old and
new.
"""

from __future__ import annotations

import hashlib
import os
import stat
import threading
import time
from operator import itemgetter
from typing import TYPE_CHECKING, BinaryIO, cast

from anyarch.archive.entry import Entry, Kind
from anyarch.errors import ContextError
from anyarch.snapshot.index import LayerIndex
from anyarch.snapshot.slices import FileSlice
from anyarch.snapshot.smallfiles import SMALL, ReadAhead, SmallFiles
from anyarch.snapshot.stack import Stack
from anyarch.snapshot.statcache import RACY_NS, StatCache, fingerprint, newest
from anyarch.snapshot.view import MergedTree
from anyarch.spec.digest import Digest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import NoReturn

    from anyarch.snapshot.tree import Keep, Node
    from anyarch.store.store import Store

__all__ = ["HostFile", "HostTree"]

_FILE = Kind.FILE
_name = itemgetter(0)
_EVER_NS = 1 << 63  # later than any time
_KINDS = {
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
    known from earlier builds. `digests` are of some of the files, by path; given, they say that the
    directory is the build's own, so that no file is looked at twice. Raises `ContextError` naming the file
    when something cannot be read.
    """

    def __init__(
        self,
        root: str,
        *,
        keep: Keep | None = None,
        store: Store | None = None,
        digests: Mapping[str, bytes] | None = None,
    ) -> None:
        super().__init__(Stack().on(None, lambda: self._tree))
        self.root = os.path.abspath(root)
        self._raw_root = os.fsencode(self.root)
        self._digests = digests
        self._limit_ns = time.time_ns() - RACY_NS
        if digests is not None:
            self._limit_ns = _EVER_NS
        self._cache: StatCache | None = None
        if store is not None:
            self._cache = StatCache(store, self.root)
        self._cache_lock = threading.Lock()
        self._fingerprints: dict[str, bytes] = {}
        self._marks: list[bytes] = []  # of all files
        self._files = SmallFiles(self._raw_root)
        self._read_ahead: dict[str, bytes] = {}
        self._tree = LayerIndex(self._scan(keep), explicit=True)
        self._settled = self._state() if self._cache is not None else None
        if self._read_ahead:
            self._learn(self._read_ahead)
            self._read_ahead = {}
        if digests:
            self._learn({path: digest for path, digest in digests.items() if path in self._fingerprints})

    def content_digest(self, path: str, *, follow: bool = False, keep: Keep | None = None) -> Digest:
        if keep is not None or self._cache is None or self._settled is None:
            return super().content_digest(path, follow=follow, keep=keep)
        with self._lock:
            real = self._resolve(path, follow=follow)
        known = self._cache.trees.get((self._settled, real))
        if known is not None:
            return Digest.from_hex(known.hex())
        digest = super().content_digest(path, follow=follow)
        with self._cache_lock:
            self._cache.save_tree(self._settled, real, bytes.fromhex(digest.hex))
        return digest

    def _open(self, position: int, entry: Entry) -> BinaryIO:
        if self._digests is not None:
            return cast(BinaryIO, FileSlice(self._raw_path(entry.path), 0, entry.size))
        return cast(BinaryIO, HostFile(self._raw_root, entry))

    def content(self, node: Node) -> BinaryIO | bytes:
        entry = node.entry
        if entry.kind is _FILE:
            known = self._files.take(entry)
            if known is not None:
                return known
        return self.open(node)

    def _digest_files(self, position: int, entries: list[Entry]) -> dict[str, bytes]:
        from anyarch.snapshot.filehash import hash_files

        computed: dict[str, bytes] = {}
        others = self._files.digest(entries, computed)
        if others:
            computed.update(hash_files(others, lambda entry: HostFile(self._raw_root, entry)))
        self._learn(computed)
        return computed

    def _learn(self, digests: dict[str, bytes]) -> None:
        self._tree.learn(digests)
        if self._cache is not None:
            limit = self._limit_ns
            marks = self._fingerprints
            if newest(marks.values()) < limit:
                new = {path: marks[path] + digest for path, digest in digests.items()}
            else:
                new = {
                    path: marks[path] + digest
                    for path, digest in digests.items()
                    if newest((marks[path],)) < limit
                }
            if new:
                with self._cache_lock:
                    self._cache.save(new)

    # -- the scan

    def _scan(self, keep: Keep | None) -> list[Entry]:
        try:
            top = os.stat(self.root)
        except OSError as error:
            raise ContextError(f"build context {self.root}: {error.strerror}") from error
        if not stat.S_ISDIR(top.st_mode):
            raise ContextError(f"build context {self.root} is not a directory")
        entries = [Entry("", Kind.DIRECTORY, stat.S_IMODE(top.st_mode), mtime_ns=top.st_mtime_ns)]
        if self._cache is None:
            self._walk_host(keep, entries, None)
            return entries
        with ReadAhead(self._files) as ahead:
            self._walk_host(keep, entries, ahead)
            ahead.finish()
            self._read_ahead = ahead.digests
        return entries

    def _walk_host(self, keep: Keep | None, entries: list[Entry], ahead: ReadAhead | None) -> None:
        """Append what is below the root. What has no digest is offered to `ahead`, and its fingerprint
        kept."""
        known = self._cache.records if self._cache is not None else {}
        unknown, marks, given = self._fingerprints, self._marks, self._digests or {}
        is_file, is_directory, file = stat.S_ISREG, stat.S_ISDIR, _FILE
        pending: list[Entry] = []  # nested directories, each to be added when something below it is
        names: dict[tuple[int, int], str] = {}  # of files with several, the first
        prefix, listing = "", self._listing("")
        stack = [(prefix, listing)]
        while stack:
            # A loop over each directory, resumed when a directory in it is done.
            for name, found in listing:
                path = prefix + name
                verdict = "yes"
                if keep is not None:
                    verdict = keep(path, found.is_dir(follow_symlinks=False))
                    if verdict == "no":
                        continue
                try:
                    status = found.stat(follow_symlinks=False)
                    mode = status.st_mode
                    if is_file(mode):
                        if verdict == "descend":
                            continue
                        size, mtime_ns, digest = status.st_size, status.st_mtime_ns, b""
                        if ahead is not None:
                            mark = fingerprint(
                                status.st_dev, status.st_ino, size, mtime_ns, status.st_ctime_ns
                            )
                            marks.append(mark)
                            record = known.get(path)
                            if record is not None and record.startswith(mark):
                                digest = record[40:]
                            else:
                                unknown[path] = mark
                        if given and not digest:
                            digest = given.get(path, b"")
                        entry = Entry(path, file, mode & 0o7777, 0, 0, mtime_ns, size, digest=digest)
                        first = path
                        if status.st_nlink > 1:
                            first = names.setdefault((status.st_dev, status.st_ino), path)
                        if first != path:
                            entry = Entry(path, Kind.HARDLINK, mode & 0o7777, 0, 0, mtime_ns, 0, first)
                        elif ahead is not None and not digest and size <= SMALL:
                            ahead.offer(entry)
                    else:
                        other = self._other(path, status)
                        if other is None or (verdict == "descend" and not is_directory(mode)):
                            continue
                        entry = other
                except FileNotFoundError:
                    continue  # gone since its directory was read, as if it never was
                except OSError as error:
                    self._refuse(path, error)
                if pending:
                    while pending and not path.startswith(pending[-1].path + "/"):
                        pending.pop()
                    if verdict == "yes":
                        entries += pending
                        pending.clear()
                (entries if verdict == "yes" else pending).append(entry)
                if is_directory(mode):
                    prefix, listing = f"{path}/", self._listing(path)
                    stack.append((prefix, listing))
                    break
            else:
                stack.pop()
                if stack:
                    prefix, listing = stack[-1]

    def _listing(self, path: str) -> Iterator[tuple[str, os.DirEntry[bytes]]]:
        try:
            with os.scandir(self._raw_path(path)) as scan:
                found = [(_text(one.name), one) for one in scan]
        except FileNotFoundError:
            found = []  # gone since its parent was read
        except OSError as error:
            self._refuse(path, error)
        found.sort(key=_name)
        return iter(found)

    def _raw_path(self, path: str) -> bytes:
        return b"%b/%b" % (self._raw_root, path.encode("utf-8", "surrogateescape"))

    def _other(self, path: str, status: os.stat_result) -> Entry | None:
        """What is no regular file; None for a socket."""
        mode = status.st_mode
        kind = _KINDS.get(stat.S_IFMT(mode))
        match kind:
            case None:
                return None
            case Kind.SYMLINK:
                return Entry(
                    path, kind, 0o777, 0, 0, status.st_mtime_ns, 0, _text(os.readlink(self._raw_path(path)))
                )
            case Kind.CHAR_DEVICE | Kind.BLOCK_DEVICE:
                major, minor = os.major(status.st_rdev), os.minor(status.st_rdev)
                return Entry(path, kind, mode & 0o7777, mtime_ns=status.st_mtime_ns, major=major, minor=minor)
        return Entry(path, kind, mode & 0o7777, mtime_ns=status.st_mtime_ns)

    def _state(self) -> bytes | None:
        """What tells that nothing in the tree is different from another time; None while it could change
        without its times telling."""
        if newest(self._marks) >= self._limit_ns:
            return None
        total = hashlib.sha256(b"anyarch tree 1\n")
        total.update(b"".join(self._marks))
        total.update("\0".join([entry.path for entry in self._tree]).encode("utf-8", "surrogateescape"))
        # The mode of a file cannot change unless its change time does.
        for entry in self._tree:
            if entry.kind is not Kind.FILE:
                text = f"\0{entry.path}\0{entry.kind:d} {entry.mode} {entry.major} {entry.minor}\0"
                total.update((text + entry.linkname).encode("utf-8", "surrogateescape"))
        return total.digest()

    def _refuse(self, path: str, error: OSError) -> NoReturn:
        raise ContextError(
            f"cannot read {path or '.'} in the build context {self.root}: {error.strerror}",
            hint="make it readable for this user, or exclude it in .dockerignore",
        ) from error


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


def _text(raw: bytes) -> str:
    """Entries speak UTF-8 whatever the locale."""
    return raw.decode("utf-8", "surrogateescape")
