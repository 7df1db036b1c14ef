"""Receiving a context: the daemon's half of `FileSync.DiffCopy`.

The files land in a directory that stays: the next transfer of the same name compares the sender's list with
what lies there and asks only for what differs. What is not listed goes away. Everything is made relative to
directories that were opened without following links, so that nothing a sender lists, and nothing it sent
before, leads outside.
"""

from __future__ import annotations

import os
import stat
from collections import deque
from typing import TYPE_CHECKING

from anyarch.archive.entry import Kind
from anyarch.errors import ContextError, ProtocolError
from anyarch.session.digesting import WORTHWHILE, DigestingThread
from anyarch.session.packet import DATA, ERR, FIN, REQ, STAT, decode_packet, decode_stat, encode_packet
from anyarch.session.receiver import ListChecker

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from anyarch.archive.entry import Entry

__all__ = ["MOST_KEPT", "RECORDS", "ContextReceiver"]

RECORDS = ".fsutil-metadata"
"""Where a transfer without contents leaves its records, each after its length (4 bytes, little-endian)."""

_TYPES = {
    Kind.FILE: stat.S_IFREG,
    Kind.HARDLINK: stat.S_IFREG,
    Kind.DIRECTORY: stat.S_IFDIR,
    Kind.SYMLINK: stat.S_IFLNK,
    Kind.FIFO: stat.S_IFIFO,
}
_AT_ONCE = 512
MOST_KEPT = 1 << 29
"""Bytes of attributes, and of records: a million files with labels of SELinux have a tenth of it."""
_O_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class ContextReceiver:
    """Takes the sender's packets by `feed` and answers through `send`. `is_finished` after the sender's FIN:
    then the call is to be ended. `received` counts the bytes of all packets, `unchanged` those of files that
    lay there as they are listed; `attributes` has the extended attributes that were listed, by path.

    With `contents_of` only the files it says true of are made; the records of all are left in `RECORDS`.
    """

    def __init__(
        self,
        directory: str,
        send: Callable[[bytes], None],
        *,
        reuse: bool = True,
        contents_of: Callable[[str], bool] | None = None,
    ) -> None:
        self._contents_of = contents_of
        self._records = bytearray()
        self._parents: list[Entry] = []
        self._root = os.open(directory, _O_DIR)
        self._send = send
        self._reuse = reuse
        self._checker = ListChecker()
        self._count = 0
        self._has_list = False
        self._wanted: dict[int, Entry] = {}
        self._queue: deque[int] = deque()
        self._open: dict[int, int] = {}
        self._asked = 0
        self._links: list[Entry] = []
        # The directory that entries are listed in just now, and what lies in it.
        self._stack: list[tuple[str, int, dict[str, os.stat_result]]] = [
            ("", self._root, _listing(self._root))
        ]
        self._times: list[tuple[str, int, int]] = []
        self._digesting = DigestingThread()
        self.attributes: dict[str, tuple[tuple[str, bytes], ...]] = {}
        self.received = 0
        self.unchanged = 0
        self._kept = 0
        self.is_finished = False

    def digests(self) -> Mapping[str, bytes]:
        """sha256 of large files that were received, by path; may take a moment."""
        return self._digesting.digests()

    def close(self) -> None:
        self._digesting.close()
        for fd in self._open.values():
            os.close(fd)
        self._open.clear()
        for _, fd, _ in self._stack[1:]:
            os.close(fd)
        del self._stack[1:]
        if self._root >= 0:
            os.close(self._root)
            self._root = -1

    def feed(self, raw: bytes | memoryview) -> None:
        """Raises `ProtocolError`, `ContextError`, `OSError`."""
        self.received += len(raw)
        packet = decode_packet(raw)
        kind = packet.type
        if kind == DATA:
            self._data(packet.id, packet.data)
        elif kind == STAT and not self._has_list:
            if packet.has_stat:
                self._listed(decode_stat(packet.stat), packet.stat)
            else:
                self._end_of_list()
        elif kind == FIN:
            if self._wanted or not self._has_list:
                raise ProtocolError("file transfer: the sender ended before it had sent all files")
            self.is_finished = True
        elif kind == ERR:
            raise ContextError(bytes(packet.data).decode("utf-8", "replace"))
        else:
            raise ProtocolError(f"file transfer: packet type {kind} from a sender")

    # the list --------------------------------------------------------------------------------------

    def _listed(self, entry: Entry, raw: bytes) -> None:
        number = self._count
        self._count += 1
        self._checker.check(entry)
        if self._contents_of is not None and not self._is_kept(entry, raw, self._contents_of):
            return
        if entry.xattrs:
            self.attributes[entry.path] = entry.xattrs
            self._kept += sum(len(name) + len(value) for name, value in entry.xattrs)
            if self._kept > MOST_KEPT:
                raise ProtocolError("file transfer: the attributes of all files are too large")
        if entry.kind in _TYPES:  # devices are of no use in a context
            self._make(number, entry)

    def _is_kept(self, entry: Entry, raw: bytes, contents_of: Callable[[str], bool]) -> bool:
        """Whether an entry is made and not only recorded; the directories above it are then made first."""
        if entry.path == RECORDS:
            return False
        self._records += len(raw).to_bytes(4, "little") + raw
        if len(self._records) > MOST_KEPT:
            raise ProtocolError("file transfer: the records of all files are too large")
        parent = entry.path.rpartition("/")[0]
        while self._parents and self._parents[-1].path != parent:
            self._parents.pop()
        above = list(self._parents)
        if entry.kind is Kind.DIRECTORY:
            self._parents.append(entry)
        if not contents_of(entry.path):
            return False
        self._parents.clear()
        for directory in above:
            self._make(-1, directory)
        return True

    def _make(self, number: int, entry: Entry) -> None:
        parent, _, name = entry.path.rpartition("/")
        self._enter(parent)
        _, fd, there = self._stack[-1]
        found = there.pop(name, None)
        if found is not None and stat.S_IFMT(found.st_mode) != _TYPES[entry.kind]:
            _remove(fd, name, found)
            found = None
        match entry.kind:
            case Kind.DIRECTORY:
                if found is None:
                    os.mkdir(name, 0o700, dir_fd=fd)
                inner = os.open(name, _O_DIR, dir_fd=fd)
                os.fchmod(inner, entry.mode | 0o700)
                self._stack.append((entry.path, inner, _listing(inner) if found is not None else {}))
                self._times.append((entry.path, entry.mtime_ns, entry.mode))
            case Kind.FILE:
                if found is not None and self._reuse and _same(found, entry):
                    self.unchanged += entry.size
                    return
                if found is not None:
                    os.unlink(name, dir_fd=fd)  # never written in place: a build may still read the old one
                self._wanted[number] = entry
                self._queue.append(number)
                self._ask()
            case Kind.HARDLINK:
                if found is not None:
                    os.unlink(name, dir_fd=fd)
                self._links.append(entry)
            case Kind.SYMLINK:
                if found is not None:
                    os.unlink(name, dir_fd=fd)
                os.symlink(entry.linkname, name, dir_fd=fd)
                os.utime(name, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=fd, follow_symlinks=False)
            case Kind.FIFO:
                if found is None:
                    os.mkfifo(name, dir_fd=fd)
                os.chmod(name, entry.mode, dir_fd=fd)
                os.utime(name, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=fd)

    def _enter(self, parent: str) -> None:
        """Leave directories until `parent` is the innermost; what they hold and was not listed goes away."""
        while True:
            path, fd, left = self._stack[-1]
            if path == parent:
                return
            if len(self._stack) == 1:
                raise ProtocolError(f"file transfer: an entry of {parent!r}, which is not being listed")
            for name, found in left.items():
                _remove(fd, name, found)
            os.close(fd)
            self._stack.pop()

    def _end_of_list(self) -> None:
        self._has_list = True
        self._enter("")
        _, fd, left = self._stack[0]
        for name, found in left.items():
            _remove(fd, name, found)
        left.clear()
        if self._contents_of is not None:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            with os.fdopen(os.open(RECORDS, flags, 0o644, dir_fd=self._root), "wb") as file:
                file.write(self._records)
        self._ask()
        self._maybe_finish()

    # contents --------------------------------------------------------------------------------------

    def _ask(self) -> None:
        while self._queue and self._asked < _AT_ONCE:
            self._asked += 1
            self._send(encode_packet(REQ, number=self._queue.popleft()))

    def _data(self, number: int, data: bytes | memoryview) -> None:
        entry = self._wanted.get(number)
        if entry is None:
            raise ProtocolError(f"file transfer: content for entry {number}, which was not asked for")
        fd = self._open.get(number)
        if fd is None:
            with _Parent(self._root, entry.path) as (parent, name):
                flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
                fd = self._open[number] = os.open(name, flags, 0o600, dir_fd=parent)
            if entry.size >= WORTHWHILE:
                self._digesting.begin(entry.path, fd)
        if len(data):
            while len(data):
                written = os.write(fd, data)
                self._digesting.written(entry.path, written)
                data = data[written:]
            return
        self._digesting.end(entry.path)
        os.fchmod(fd, entry.mode)
        os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))
        os.close(fd)
        del self._open[number], self._wanted[number]
        self._asked -= 1
        self._ask()
        self._maybe_finish()

    def _maybe_finish(self) -> None:
        if not self._has_list or self._wanted:
            return
        for entry in self._links:
            with (
                _Parent(self._root, entry.path) as (parent, name),
                _Parent(self._root, entry.linkname.lstrip("/")) as (other, target),
            ):
                os.link(target, name, src_dir_fd=other, dst_dir_fd=parent, follow_symlinks=False)
        self._links.clear()
        for path, mtime_ns, mode in reversed(self._times):
            with _Parent(self._root, path) as (parent, name):
                fd = os.open(name, _O_DIR, dir_fd=parent)
                try:
                    os.fchmod(fd, mode)
                    os.utime(fd, ns=(mtime_ns, mtime_ns))
                finally:
                    os.close(fd)
        self._times.clear()
        self._send(encode_packet(FIN))


class _Parent:
    """The directory of a path below `root`, opened without following links, and the last name."""

    def __init__(self, root: int, path: str) -> None:
        *self._parts, self._name = path.split("/")
        self._root = root
        self._fd = -1

    def __enter__(self) -> tuple[int, str]:
        fd = os.dup(self._root)
        for part in self._parts:
            try:
                inner = os.open(part, _O_DIR, dir_fd=fd)
            finally:
                os.close(fd)
            fd = inner
        self._fd = fd
        return fd, self._name

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


def _listing(fd: int) -> dict[str, os.stat_result]:
    with os.scandir(fd) as found:
        return {item.name: item.stat(follow_symlinks=False) for item in found}


def _same(found: os.stat_result, entry: Entry) -> bool:
    return (
        found.st_size == entry.size
        and found.st_mtime_ns == entry.mtime_ns
        and stat.S_IMODE(found.st_mode) == entry.mode
        and found.st_nlink == 1
    )


def _remove(fd: int, name: str, found: os.stat_result) -> None:
    if stat.S_ISDIR(found.st_mode):
        inner = os.open(name, _O_DIR, dir_fd=fd)
        try:
            if found.st_mode & 0o700 != 0o700:
                os.fchmod(inner, 0o700)
            for child, status in _listing(inner).items():
                _remove(inner, child, status)
        finally:
            os.close(inner)
        os.rmdir(name, dir_fd=fd)
    else:
        os.unlink(name, dir_fd=fd)
