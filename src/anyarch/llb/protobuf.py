"""The little of protobuf's wire format that LLB needs, written out by hand.

The protobuf runtime costs more to import than a whole cached build may take. Values absent when default are
left out by every `put_…` but `put_message`, which writes a sub-message that is there even if it is empty.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from anyarch.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = [
    "collect",
    "fields",
    "put_bool",
    "put_bytes",
    "put_int",
    "put_message",
    "put_message_map",
    "put_str",
    "put_str_map",
    "put_strs",
    "read_varint",
    "signed",
    "text",
    "varint",
]

_SMALL = [bytes([n]) for n in range(128)]


def varint(value: int) -> bytes:
    if 0 <= value < 128:
        return _SMALL[value]
    if value < 0:
        value += 1 << 64
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def _tag(number: int, wire_type: int) -> bytes:
    return varint(number << 3 | wire_type)


# tags by field number: varint and length-delimited
_V = [_tag(number, 0) for number in range(32)]
_L = [_tag(number, 2) for number in range(32)]


def put_int(number: int, value: int) -> bytes:
    return _V[number] + varint(value) if value else b""


def put_bool(number: int, value: bool) -> bytes:
    return _V[number] + b"\x01" if value else b""


def put_bytes(number: int, value: bytes) -> bytes:
    return _L[number] + varint(len(value)) + value if value else b""


def put_message(number: int, value: bytes) -> bytes:
    """A sub-message: present even when it is empty."""
    return _L[number] + varint(len(value)) + value


def put_str(number: int, value: str) -> bytes:
    if not value:
        return b""
    data = value.encode("utf-8", "surrogateescape")
    return _L[number] + varint(len(data)) + data


def put_strs(number: int, values: Iterable[str]) -> bytes:
    tag = _L[number]
    parts = []
    for value in values:
        data = value.encode("utf-8", "surrogateescape")
        parts.append(tag + varint(len(data)) + data)
    return b"".join(parts)


def put_str_map(number: int, values: Mapping[str, str]) -> bytes:
    if not values:
        return b""
    parts = []
    for key in sorted(values):
        name = key.encode("utf-8", "surrogateescape")
        data = values[key].encode("utf-8", "surrogateescape")
        entry = b"\x0a" + varint(len(name)) + name + b"\x12" + varint(len(data)) + data
        parts.append(put_message(number, entry))
    return b"".join(parts)


def put_message_map(number: int, values: Mapping[str, bytes]) -> bytes:
    parts = []
    for key in sorted(values):
        name = key.encode("utf-8", "surrogateescape")
        parts.append(put_message(number, put_message(1, name) + put_message(2, values[key])))
    return b"".join(parts)


def fields(raw: bytes) -> list[tuple[int, Any]]:
    """Field numbers with their values, an int or bytes. Raises `UsageError` on malformed bytes."""
    result: list[tuple[int, Any]] = []
    position, end = 0, len(raw)
    try:
        while position < end:
            key = raw[position]
            position += 1
            if key > 127:
                key, position = read_varint(raw, position - 1)
            number, wire_type = key >> 3, key & 7
            if wire_type == 2:
                size = raw[position]
                position += 1
                if size > 127:
                    size, position = read_varint(raw, position - 1)
                stop = position + size
                if stop > end:
                    raise IndexError
                result.append((number, raw[position:stop]))
                position = stop
            elif wire_type == 0:
                value = raw[position]
                position += 1
                if value > 127:
                    value, position = read_varint(raw, position - 1)
                result.append((number, value))
            elif wire_type in (1, 5):
                position += 8 if wire_type == 1 else 4
                if position > end:
                    raise IndexError
            else:
                raise UsageError(f"malformed LLB: wire type {wire_type}")
    except IndexError:
        raise UsageError("malformed LLB: message is cut short") from None
    return result


def read_varint(raw: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = raw[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value & 0xFFFF_FFFF_FFFF_FFFF, position
        shift += 7
        if shift > 63:
            raise UsageError("malformed LLB: number is too long")


def signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def text(value: bytes) -> str:
    return value.decode("utf-8", "surrogateescape")


def collect(raw: bytes, names: Mapping[int, str], **repeated: list[Any]) -> dict[str, Any]:
    """Fields by name: the last value wins, those in `repeated` are gathered. Unknown fields are dropped."""
    found: dict[str, Any] = {}
    for number, value in fields(raw):
        name = names.get(number)
        if name is None:
            continue
        if name in repeated:
            repeated[name].append(value)
        else:
            found[name] = value
    return found
