"""Tar of layers: `TarWriter` packs entries by hand, `read_tar` (in `tar_reader`) streams them back.

The format is POSIX.1-2001: a ustar header, with a PAX header before it where ustar cannot say it (`path`,
`linkpath`, `size`, `uid`, `gid`, `mtime`, `SCHILY.xattr.*`). GNU forms are never written, and no field
mixes the two. Times are whole seconds, rounded down, as container tools write them.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Protocol
from zlib import adler32

from msgspec.structs import replace

from anyarch.archive.entry import Kind
from anyarch.archive.tar_input import ContentReader
from anyarch.archive.tar_reader import MAX_PAX_SIZE, read_tar
from anyarch.errors import MalformedArchive

if TYPE_CHECKING:
    from collections.abc import Callable

    from anyarch.archive.entry import Entry

__all__ = ["BLOCK", "OPAQUE_MARKER", "WHITEOUT_PREFIX", "ContentReader", "Readable", "TarWriter", "read_tar"]

BLOCK = 512
WHITEOUT_PREFIX = ".wh."
OPAQUE_MARKER = ".wh..wh..opq"

_FLUSH_SIZE = 1 << 20
_PADDING = [bytes(-size % BLOCK) for size in range(BLOCK)]

_MAX_ID = 0o7777777
_MAX_NUMBER = 0o77777777777  # of the 12-byte fields: size (8 GiB - 1) and mtime (the year 2242)

_FILE, _DIRECTORY, _SYMLINK, _HARDLINK = Kind.FILE, Kind.DIRECTORY, Kind.SYMLINK, Kind.HARDLINK
_WHITEOUT = Kind.WHITEOUT
_TYPE = {
    Kind.FILE: b"0",
    Kind.HARDLINK: b"1",
    Kind.SYMLINK: b"2",
    Kind.CHAR_DEVICE: b"3",
    Kind.BLOCK_DEVICE: b"4",
    Kind.DIRECTORY: b"5",
    Kind.FIFO: b"6",
}


def _tail(kind: bytes, link: bytes, major: int, minor: int, prefix: bytes) -> bytes:
    """The header from the type flag on."""
    return b"%b%bustar\x0000%b%07o\x00%07o\x00%b" % (
        kind,
        link.ljust(100, b"\x00"),
        bytes(64),  # uname, gname: names are of the machine that built, never of the image
        major,
        minor,
        prefix.ljust(167, b"\x00"),
    )


# Most entries differ only in what comes before the type flag. Sums are those of the checksum, in which the
# checksum field itself counts as 8 spaces.
_PLAIN_TAIL = {kind: _tail(flag, b"", 0, 0, b"") for kind, flag in _TYPE.items()}
_PLAIN_SUM = {kind: sum(tail) + 8 * 32 for kind, tail in _PLAIN_TAIL.items()}


class Readable(Protocol):
    """Content of a file: fewer bytes than asked may come, none means the end."""

    def read(self, size: int, /) -> bytes: ...


class TarWriter:
    """Writes entries, in the order given, as a tar whose bytes depend on the entries and contents alone.

    `sink` gets `bytes` objects of about 1 MiB. With `hash_contents` the answered entries carry the digest of
    their content. `whiteouts=False` is for plain tars, where names that begin with `.wh.` mean nothing; else
    such names of ordinary entries are refused, as they would come back as removals. Not thread-safe.
    """

    def __init__(
        self, sink: Callable[[bytes], object], *, hash_contents: bool = False, whiteouts: bool = True
    ) -> None:
        self._sink = sink
        self._parts: list[bytes] = []
        self._size = 0  # of the parts
        self._flushed = 0
        self._hash_contents = hash_contents
        self._whiteouts = whiteouts
        self._closed = False
        if hash_contents:
            import hashlib

            self._sha256 = hashlib.sha256

    @property
    def offset(self) -> int:
        """Bytes of tar so far."""
        return self._flushed + self._size

    def add(self, entry: Entry, content: Readable | bytes | None = None) -> Entry:
        """Append `entry`; the answer has `offset` filled, and `digest` if asked and unknown.

        `content` of a FILE must be `entry.size` bytes, to its end; it is ignored for other kinds. Raises
        `MalformedArchive` when it is not, or when a value cannot be written.
        """
        self._put_header(entry)
        if entry.kind is not _FILE:
            return entry if entry.offset == -1 else replace(entry, offset=-1)
        if content is None:
            content = b""
        if isinstance(content, bytes):
            if len(content) != entry.size:
                raise _wrong_size(entry)
            return self._put_whole(entry, content)
        if entry.size < _FLUSH_SIZE:
            data = content.read(entry.size + 1)
            if len(data) == entry.size:
                # A short answer of a raw stream is possible only below the size, so this is all or too little
                # to know; one more read tells.
                if not content.read(1):
                    return self._put_whole(entry, data)
                raise _wrong_size(entry)
            return self._put_stream(entry, data, content.read)
        return self._put_stream(entry, b"", content.read)

    def add_fd(self, entry: Entry, fd: int) -> Entry:
        """As `add` of a FILE, with the content read from the file descriptor `fd`, which stays open."""
        self._put_header(entry)
        if entry.size < _FLUSH_SIZE:
            data = os.read(fd, entry.size + 1)
            if len(data) == entry.size:  # of a regular file a read is never short
                return self._put_whole(entry, data)
            return self._put_stream(entry, data, lambda size: os.read(fd, size))
        return self._put_stream(entry, b"", lambda size: os.read(fd, size))

    def close(self) -> None:
        """Write the end of the archive and flush to the sink. Idempotent."""
        if not self._closed:
            self._closed = True
            self._append(bytes(2 * BLOCK))
            self._flush()

    # -- contents ------------------------------------------------------------------------------------------

    def _put_whole(self, entry: Entry, data: bytes) -> Entry:
        offset = self._flushed + self._size
        size = len(data)
        if size:
            parts = self._parts
            parts.append(data)
            rest = size % BLOCK
            if rest:
                parts.append(_PADDING[rest])
                size += BLOCK - rest
            self._size += size
            if self._size >= _FLUSH_SIZE:
                self._flush()
        if self._hash_contents and not entry.digest:
            return replace(entry, offset=offset, digest=self._sha256(data).digest())
        return replace(entry, offset=offset)

    def _put_stream(self, entry: Entry, data: bytes, read: Callable[[int], bytes]) -> Entry:
        """A content of which `data` was read already."""
        offset = self._flushed + self._size
        digest = self._sha256() if self._hash_contents and not entry.digest else None
        left = entry.size
        while True:
            left -= len(data)
            if left < 0:
                raise _wrong_size(entry)
            if data:
                if digest is not None:
                    digest.update(data)
                self._append(data)
            data = read(min(left + 1, _FLUSH_SIZE))  # one more than is due: a longer content is an error too
            if not data:
                break
        if left:
            raise _wrong_size(entry)
        self._append(_PADDING[entry.size % BLOCK])
        if digest is not None:
            return replace(entry, offset=offset, digest=digest.digest())
        return replace(entry, offset=offset)

    def _append(self, data: bytes) -> None:
        self._parts.append(data)
        self._size += len(data)
        if self._size >= _FLUSH_SIZE:
            self._flush()

    def _flush(self) -> None:
        data = b"".join(self._parts)
        self._parts.clear()
        self._flushed += self._size
        self._size = 0
        self._sink(data)

    # -- headers -------------------------------------------------------------------------------------------

    def _put_header(self, entry: Entry) -> None:
        path = entry.path
        if self._whiteouts and ".wh." in path and path.startswith(WHITEOUT_PREFIX, path.rfind("/") + 1):
            raise MalformedArchive(
                f"{path!r} cannot be stored in a layer",
                hint="in image layers names that begin with .wh. mean a removal; rename the file",
            )
        kind = entry.kind
        if kind is _WHITEOUT:
            self._put_whiteout(entry)
            return
        name = path.encode("utf-8", "surrogateescape")
        if kind is _DIRECTORY:
            name = name + b"/" if name else b"./"
        seconds = entry.mtime_ns // 1_000_000_000
        size = entry.size if kind is _FILE else 0
        if (
            len(name) <= 100
            and (kind is _FILE or (kind is not _SYMLINK and kind is not _HARDLINK))
            and not entry.xattrs
            and 0 <= entry.uid <= _MAX_ID
            and 0 <= entry.gid <= _MAX_ID
            and 0 <= seconds <= _MAX_NUMBER
            and 0 <= size <= _MAX_NUMBER
            and path
            and path.isascii()
            and b"\x00" not in name
            and (kind is _FILE or entry.major == entry.minor == 0)
        ):
            head = b"%b%07o\x00%07o\x00%07o\x00%011o\x00%011o\x00" % (
                name.ljust(100, b"\x00"),
                entry.mode & 0o7777,
                entry.uid,
                entry.gid,
                size,
                seconds,
            )
            # adler32's lower half is 1 + the sum of the bytes modulo 65521, out of reach of 148 ASCII bytes.
            header = b"%b%06o\x00 %b" % (
                head,
                (adler32(head) & 0xFFFF) - 1 + _PLAIN_SUM[kind],
                _PLAIN_TAIL[kind],
            )
            self._parts.append(header)
            self._size += BLOCK
        else:
            self._put_any_header(entry, name, size, seconds)
        if entry.opaque and kind is _DIRECTORY:
            self._put_marker(f"{path}/{OPAQUE_MARKER}" if path else OPAQUE_MARKER)

    def _put_whiteout(self, entry: Entry) -> None:
        if not self._whiteouts:
            raise MalformedArchive(f"a removal ({entry.path!r}) cannot be written to a plain tar")
        if entry.opaque:
            self._put_marker(f"{entry.path}/{OPAQUE_MARKER}" if entry.path else OPAQUE_MARKER)
            return
        parent, slash, base = entry.path.rpartition("/")
        self._put_marker(f"{parent}{slash}{WHITEOUT_PREFIX}{base}")

    def _put_marker(self, path: str) -> None:
        """An empty file without owner, permissions or time: nothing of it is ever unpacked."""
        self._put_numbers(path.encode("utf-8", "surrogateescape"), _Numbers(), b"0", b"", (0, 0), [])

    def _put_any_header(self, entry: Entry, name: bytes, size: int, seconds: int) -> None:
        """A header of any entry but a whiteout, with whatever PAX records it needs."""
        records: list[tuple[bytes, bytes]] = []
        link = entry.linkname.encode("utf-8", "surrogateescape")
        if entry.kind not in (_SYMLINK, _HARDLINK):
            link = b""
        elif not link:
            raise MalformedArchive(f"the link {entry.path!r} has no target")
        numbers = _Numbers(entry.mode & 0o7777, entry.uid, entry.gid, size, seconds)
        if min(entry.uid, entry.gid, size) < 0 or max(entry.uid, entry.gid) >= 1 << 32:
            raise MalformedArchive(f"owner or size of {entry.path!r} is out of range")
        device = (entry.major, entry.minor)
        if entry.kind not in (Kind.CHAR_DEVICE, Kind.BLOCK_DEVICE):
            device = (0, 0)
        elif not (0 <= entry.major <= _MAX_ID and 0 <= entry.minor <= _MAX_ID):
            raise MalformedArchive(f"device number of {entry.path!r} is out of range")
        for attribute, value in entry.xattrs:
            key = attribute.encode("utf-8", "surrogateescape")
            if b"=" in key or b"%3D" in key or b"%25" in key:
                # A PAX keyword cannot hold "=". GNU tar's escape, where needed: Go knows none.
                key = key.replace(b"%", b"%25").replace(b"=", b"%3D")
            records.append((b"SCHILY.xattr." + key, value))
        self._put_numbers(name, numbers, _TYPE[entry.kind], link, device, records)

    def _put_numbers(
        self,
        name: bytes,
        numbers: _Numbers,
        flag: bytes,
        link: bytes,
        device: tuple[int, int],
        xattrs: list[tuple[bytes, bytes]],
    ) -> None:
        if b"\x00" in name or b"\x00" in link:
            raise MalformedArchive(f"{name!r}: NUL in a path")
        records: list[tuple[bytes, bytes]] = []
        short, prefix = _split(name)
        if short is None or not _is_portable(name):
            records.append((b"path", name))
        if len(link) > 100 or not _is_portable(link):
            records.append((b"linkpath", link))
        if any(not _is_utf8(value) for _, value in records):
            records.insert(0, (b"hdrcharset", b"BINARY"))
        records += numbers.records()
        records += xattrs
        if records:
            data = b"".join(_pax_record(key, value) for key, value in records)
            if len(data) > MAX_PAX_SIZE:
                raise MalformedArchive(f"{name!r}: more than {MAX_PAX_SIZE >> 20} MiB of extended attributes")
            self._append(
                _header(b"././@PaxHeader", _Numbers(0o644, 0, 0, len(data), 0), _tail(b"x", b"", 0, 0, b""))
            )
            self._append(data)
            self._append(_PADDING[len(data) % BLOCK])
        if short is None:
            # What a reader without PAX gets to see; cut between characters, so that it still is text.
            short, prefix = name[:100].decode("utf-8", "ignore").encode().rstrip(b"/") or b"_", b""
        self._append(_header(short, numbers.clipped(), _tail(flag, link[:100], *device, prefix)))


class _Numbers:
    """The number fields of one header."""

    __slots__ = ("gid", "mode", "mtime", "size", "uid")

    def __init__(self, mode: int = 0, uid: int = 0, gid: int = 0, size: int = 0, mtime: int = 0) -> None:
        self.mode = mode
        self.uid = uid
        self.gid = gid
        self.size = size
        self.mtime = mtime

    def records(self) -> list[tuple[bytes, bytes]]:
        """PAX records for those that do not fit."""
        table = ((b"size", self.size, _MAX_NUMBER), (b"uid", self.uid, _MAX_ID), (b"gid", self.gid, _MAX_ID))
        records = [(key, b"%d" % value) for key, value, limit in table if value > limit]
        if not 0 <= self.mtime <= _MAX_NUMBER:
            records.append((b"mtime", b"%d" % self.mtime))
        return records

    def clipped(self) -> _Numbers:
        """What the ustar fields hold: 0 for those that do not fit."""
        return _Numbers(
            self.mode,
            self.uid if self.uid <= _MAX_ID else 0,
            self.gid if self.gid <= _MAX_ID else 0,
            self.size if self.size <= _MAX_NUMBER else 0,
            self.mtime if 0 <= self.mtime <= _MAX_NUMBER else 0,
        )


def _header(name: bytes, numbers: _Numbers, tail: bytes) -> bytes:
    head = b"%b%07o\x00%07o\x00%07o\x00%011o\x00%011o\x00" % (
        name.ljust(100, b"\x00"),
        numbers.mode,
        numbers.uid,
        numbers.gid,
        numbers.size,
        numbers.mtime,
    )
    return b"%b%06o\x00 %b" % (head, sum(head) + 8 * 32 + sum(tail), tail)


def _split(name: bytes) -> tuple[bytes | None, bytes]:
    """ustar's name and prefix fields for `name`; (None, b"") when it does not fit."""
    if len(name) <= 100:
        return name, b""
    if len(name) <= 256:
        # The slash between the two is not stored; a directory's own trailing slash cannot be it.
        cut = name.rfind(b"/", 0, min(156, len(name) - 1))
        if cut > 0 and len(name) - cut - 1 <= 100:
            return name[cut + 1 :], name[:cut]
    return None, b""


def _is_portable(text: bytes) -> bool:
    """May `text` stand in a ustar field alone? ASCII, or bytes that are no text and so have no better form.

    For UTF-8 the PAX record is added, which says that it is UTF-8; the field still holds the bytes, for
    readers that know no PAX.
    """
    return text.isascii() or not _is_utf8(text)


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def _pax_record(key: bytes, value: bytes) -> bytes:
    """`LENGTH KEY=VALUE\\n`, where LENGTH counts the whole record, itself included."""
    size = len(key) + len(value) + 3
    total = size + len(str(size))
    if len(str(total)) != len(str(size)):
        total = size + len(str(total))
    return b"%d %b=%b\n" % (total, key, value)


def _wrong_size(entry: Entry) -> MalformedArchive:
    return MalformedArchive(
        f"the content of {entry.path!r} is not {entry.size} bytes long",
        hint="the file changed while it was being read",
    )
