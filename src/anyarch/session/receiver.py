"""Receiving a tree of files into a directory: the client's half of a local output (fsutil's DiffCopy).

Pure of connections: `TreeReceiver` takes the sender's packets and says what to send back. What the sender
lists is checked before anything is made, and made by `archive.apply`, which never leaves the directory.
"""

from __future__ import annotations

import tempfile
from collections import deque
from typing import TYPE_CHECKING, BinaryIO, cast

import msgspec

from anyarch.archive.entry import Kind
from anyarch.errors import ProtocolError
from anyarch.session.packet import DATA, ERR, FIN, REQ, STAT, decode_packet, decode_stat, encode_packet

if TYPE_CHECKING:
    from anyarch.archive.apply import Unpacker
    from anyarch.archive.entry import Entry

__all__ = ["MOST_ENTRIES", "ListChecker", "TreeReceiver"]

MOST_ENTRIES = 10_000_000
"""Of one transfer: each costs some hundred bytes of memory until its end."""
_SPOOL = 1 << 20
_PATH_MAX = 4096
_DEPTH = 500  # directories in one another: each costs an open file here, and a call for whoever removes them
_AT_ONCE = 64  # files asked for and not yet complete


class ListChecker:
    """Checks a sender's list as it comes: clean relative paths, in order, below directories that were listed
    before, hard links only to files that were."""

    def __init__(self) -> None:
        self._left = MOST_ENTRIES
        self._last: list[bytes] = []
        self._directories = {""}
        self._files: set[str] = set()

    def check(self, entry: Entry) -> None:
        """Raises `ProtocolError`."""
        path = entry.path
        parts = path.split("/")
        if not path or any(part in ("", ".", "..") for part in parts) or "\0" in path:
            raise ProtocolError(f"file transfer: the sender lists {path!r}, which is no clean relative path")
        raw = path.encode("utf-8", "surrogateescape")
        if len(raw) > _PATH_MAX or len(parts) > _DEPTH:
            raise ProtocolError(f"file transfer: the sender lists {path[:64]!r}…, a path that is too long")
        order = raw.split(b"/")
        if order <= self._last:
            raise ProtocolError(f"file transfer: the sender lists {path!r} twice or out of order")
        self._last = order
        self._left -= 1
        if self._left < 0:
            raise ProtocolError(f"file transfer: the sender lists more than {MOST_ENTRIES} files")
        if path.rpartition("/")[0] not in self._directories:
            raise ProtocolError(
                f"file transfer: the sender lists {path!r}, but not the directory that holds it"
            )
        if entry.kind is Kind.DIRECTORY:
            self._directories.add(path)
        elif entry.kind is Kind.FILE:
            self._files.add(path)
        elif entry.kind is Kind.HARDLINK and entry.linkname.lstrip("/") not in self._files:
            raise ProtocolError(
                f"file transfer: {path!r} is a link to {entry.linkname!r}, which was not listed before it"
            )


class TreeReceiver:
    """Makes what a sender lists with `unpacker`; `feed` it every packet and send what it answers.

    Devices are left out. `is_finished` after the sender's FIN: then the call is to be ended. Owners are the
    unpacker's matter. `paths` are those listed.
    """

    def __init__(self, unpacker: Unpacker) -> None:
        self._unpacker = unpacker
        self._checker = ListChecker()
        self._count = 0
        self._has_list = False
        self._waiting: deque[int] = deque()  # files to ask for
        self._entries: dict[int, Entry] = {}  # asked for or to be asked for
        self._open: dict[int, BinaryIO] = {}
        self._links: list[Entry] = []
        self.paths: set[str] = set()
        self.is_finished = False

    def feed(self, raw: bytes) -> list[bytes]:
        """Take a packet. Raises `ProtocolError`, and what the unpacker raises."""
        packet = decode_packet(raw)
        kind = packet.type
        if kind == STAT and not self._has_list:
            if packet.has_stat:
                return self._listed(decode_stat(packet.stat))
            self._has_list = True
            return self._next()
        if kind == DATA:
            return self._data(packet.id, packet.data)
        if kind == FIN:
            if self._entries or not self._has_list:
                raise ProtocolError("file transfer: the sender ended before it had sent all files")
            self.is_finished = True
            return []
        if kind == ERR:
            text = bytes(packet.data).decode("utf-8", "replace")
            raise ProtocolError(f"the builder could not send its files: {text}")
        raise ProtocolError(f"file transfer: packet type {kind} from a sender")

    def close(self) -> None:
        """Drop what is incomplete. Idempotent."""
        for file in self._open.values():
            file.close()
        self._open.clear()

    def _listed(self, entry: Entry) -> list[bytes]:
        number = self._count
        self._count += 1
        self._checker.check(entry)
        self.paths.add(entry.path)
        match entry.kind:
            case Kind.FILE:
                self._entries[number] = entry
                self._waiting.append(number)
                return self._next()
            case Kind.HARDLINK:
                self._links.append(msgspec.structs.replace(entry, linkname=entry.linkname.lstrip("/")))
            case Kind.CHAR_DEVICE | Kind.BLOCK_DEVICE:
                pass
            case _:
                self._unpacker.put(entry)
        return []

    def _next(self) -> list[bytes]:
        answers = []
        while self._waiting and len(self._open) < _AT_ONCE:
            number = self._waiting.popleft()
            self._open[number] = cast("BinaryIO", tempfile.SpooledTemporaryFile(_SPOOL))  # noqa: SIM115 (closed when it is complete)
            answers.append(encode_packet(REQ, number=number))
        if self._has_list and not self._entries:
            for link in self._links:
                self._unpacker.put(link)
            self._links.clear()
            answers.append(encode_packet(FIN))
        return answers

    def _data(self, number: int, data: bytes | memoryview) -> list[bytes]:
        file = self._open.get(number)
        if file is None:
            raise ProtocolError(f"file transfer: content for entry {number}, which was not asked for")
        if len(data):
            file.write(data)
            return []
        entry = self._entries.pop(number)
        size = file.tell()
        file.seek(0)
        self._unpacker.put(msgspec.structs.replace(entry, size=size), file)
        self._open.pop(number).close()
        return self._next()
