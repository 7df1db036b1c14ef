"""fsutil's packets and file records, the messages of every file transfer (package `fsutil.types`).

A transfer of many small files is mostly these messages, so they are read and written by hand: a packet is
three fields at most. Modes are Go's (`gomode`).
"""

from __future__ import annotations

from stat import S_IFMT, S_IMODE
from typing import TYPE_CHECKING

import msgspec

from anyarch.archive.entry import TYPE_BITS, Entry, Kind
from anyarch.errors import ProtocolError
from anyarch.session.gomode import go_mode, unix_mode

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "DATA",
    "ERR",
    "FIN",
    "REQ",
    "STAT",
    "Packet",
    "decode_packet",
    "decode_stat",
    "encode_packet",
    "encode_stat",
]

STAT, REQ, DATA, FIN, ERR = range(5)

_KINDS = {mode: kind for kind, mode in TYPE_BITS.items() if kind is not Kind.HARDLINK}

_VARINT_LIMIT = 70


class Packet(msgspec.Struct, frozen=True, gc=False):
    """One packet. `stat` is the encoded record of a STAT, b"" when it has none (the end of the list)."""

    type: int = STAT
    stat: bytes = b""
    id: int = 0
    data: bytes | memoryview = b""
    has_stat: bool = False


def encode_packet(
    kind: int, *, stat: bytes | None = None, number: int = 0, data: bytes | memoryview = b""
) -> bytes:
    """A packet's bytes; fields that are zero or empty are left out, as Go does."""
    out = bytearray()
    if kind:
        out += b"\x08"
        out.append(kind)
    if stat is not None:
        out += b"\x12"
        _append_varint(out, len(stat))
        out += stat
    if number:
        out += b"\x18"
        _append_varint(out, number)
    if len(data):
        out += b"\x22"
        _append_varint(out, len(data))
        out += data
    return bytes(out)


def decode_packet(raw: bytes | memoryview) -> Packet:
    """Raises `ProtocolError` for what is no packet."""
    kind, number = STAT, 0
    stat: bytes = b""
    data: bytes | memoryview = b""
    has_stat = False
    for field, value in _fields(raw):
        match field, value:
            case 1, int():
                kind = value
            case 3, int():
                number = value
            case 2, memoryview():
                stat, has_stat = bytes(value), True
            case 4, memoryview():
                data = value
    if kind > ERR:
        raise ProtocolError(f"file transfer: unknown packet type {kind}")
    return Packet(kind, stat, number, data, has_stat)


def encode_stat(entry: Entry) -> bytes:
    """The record of an entry. Raises `ProtocolError` for a path that is not UTF-8, which the format cannot
    carry."""
    mode = go_mode(entry.mode | TYPE_BITS[entry.kind])
    out = bytearray()
    _append_bytes(out, b"\x0a", _utf8(entry.path))
    _append_number(out, b"\x10", mode)
    _append_number(out, b"\x18", entry.uid)
    _append_number(out, b"\x20", entry.gid)
    _append_number(out, b"\x28", entry.size)
    _append_number(out, b"\x30", entry.mtime_ns)
    _append_bytes(out, b"\x3a", _utf8(entry.linkname))
    _append_number(out, b"\x40", entry.major)
    _append_number(out, b"\x48", entry.minor)
    for name, value in entry.xattrs:
        pair = bytearray()
        _append_bytes(pair, b"\x0a", _utf8(name))
        _append_bytes(pair, b"\x12", value)
        out += b"\x52"
        _append_varint(out, len(pair))
        out += pair
    return bytes(out)


def decode_stat(raw: bytes) -> Entry:
    """The entry of a record; its path as sent, which the receiver has to check. A regular file with a link
    name is a HARDLINK. Raises `ProtocolError`."""
    texts = {1: "", 7: ""}
    numbers = {2: 0, 3: 0, 4: 0, 5: 0, 6: 0, 8: 0, 9: 0}
    xattrs: dict[str, bytes] = {}
    for field, value in _fields(raw):
        if isinstance(value, int):
            if field in numbers:
                numbers[field] = value
        elif field in texts:
            texts[field] = _text(value)
        elif field == 10:
            pair = dict(_fields(value))
            name, content = pair.get(1, b""), pair.get(2, b"")
            if isinstance(name, int) or isinstance(content, int):
                raise ProtocolError("file transfer: damaged attribute of a file")
            xattrs[_text(name)] = bytes(content)
    bits = numbers[2] & 0xFFFFFFFF
    mode = unix_mode(bits)
    kind: Kind | None = _KINDS.get(S_IFMT(mode)) if mode is not None else None
    if mode is None or kind is None:
        raise ProtocolError(f"file transfer: {texts[1]!r} is a file of an unknown kind (mode {bits:#x})")
    if kind is Kind.FILE and texts[7]:
        kind = Kind.HARDLINK
    return Entry(
        texts[1],
        kind,
        S_IMODE(mode),
        numbers[3],
        numbers[4],
        _signed(numbers[6]),
        max(0, _signed(numbers[5])) if kind is Kind.FILE else 0,
        texts[7],
        _signed(numbers[8]),
        _signed(numbers[9]),
        tuple(sorted(xattrs.items())),
    )


def _fields(raw: bytes | memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Field numbers with varints and byte strings, the two wire types that these messages use."""
    view = memoryview(raw)
    position, end = 0, len(view)
    while position < end:
        tag, position = _varint(view, position)
        field, wire = tag >> 3, tag & 7
        value, position = _varint(view, position)
        if wire == 0:
            yield field, value
        elif wire == 2:
            if value > end - position:
                raise ProtocolError("file transfer: a packet is cut short")
            yield field, view[position : position + value]
            position += value
        else:
            raise ProtocolError(f"file transfer: a packet has a field of wire type {wire}")


def _varint(view: memoryview, position: int) -> tuple[int, int]:
    result = shift = 0
    try:
        while True:
            byte = view[position]
            position += 1
            result |= (byte & 0x7F) << shift
            if byte < 0x80:
                return result, position
            shift += 7
            if shift >= _VARINT_LIMIT:
                raise ProtocolError("file transfer: a number in a packet is too long")
    except IndexError:
        raise ProtocolError("file transfer: a packet is cut short") from None


def _append_varint(out: bytearray, value: int) -> None:
    value &= 0xFFFFFFFFFFFFFFFF
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)


def _append_number(out: bytearray, tag: bytes, value: int) -> None:
    if value:
        out += tag
        _append_varint(out, value)


def _append_bytes(out: bytearray, tag: bytes, value: bytes) -> None:
    if value:
        out += tag
        _append_varint(out, len(value))
        out += value


def _signed(value: int) -> int:
    value &= 0xFFFFFFFFFFFFFFFF
    return value - (1 << 64) if value >> 63 else value


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        shown = text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        raise ProtocolError(
            f"the name {shown} is not UTF-8, and cannot be sent to another builder",
            hint="rename the file, or exclude it in .dockerignore",
        ) from None


def _text(raw: bytes | memoryview) -> str:
    return bytes(raw).decode("utf-8", "surrogateescape")
