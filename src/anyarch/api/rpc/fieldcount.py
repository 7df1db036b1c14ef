"""How many fields a serialized protobuf message has, counted before it is parsed.

A parsed message can take fifty times the memory of its bytes (an empty message inside another takes two bytes
of the first and a hundred of the second), so the limit on bytes alone does not bound it. Nothing is checked
here: bytes that are no message are left to the parser.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from google.protobuf.descriptor import Descriptor

__all__ = ["has_more_fields"]


@cache
def _nested(descriptor: Descriptor) -> dict[int, Any]:
    return {field.number: field.message_type for field in descriptor.fields if field.message_type is not None}


def has_more_fields(raw: bytes, descriptor: Descriptor, limit: int) -> bool:
    """Whether the message and all messages inside it have more than `limit` fields. Looks at no more than
    that many."""
    stack = [(0, len(raw), _nested(descriptor))]
    try:
        while stack:
            position, end, nested = stack.pop()
            while position < end:
                limit -= 1
                if limit < 0:
                    return True
                tag = raw[position]
                position += 1
                if tag > 127:
                    tag, position = _varint(raw, position, tag)
                kind = tag & 7
                if kind == 2:
                    size = raw[position]
                    position += 1
                    if size > 127:
                        size, position = _varint(raw, position, size)
                    inner = nested.get(tag >> 3)
                    if inner is not None and size:
                        stack.append((position, min(position + size, end), _nested(inner)))
                    position += size
                elif kind == 0:
                    while raw[position] > 127:
                        position += 1
                    position += 1
                elif kind == 1:
                    position += 8
                elif kind == 5:
                    position += 4
                else:
                    break
    except IndexError:
        pass
    return False


def _varint(raw: bytes, position: int, first: int) -> tuple[int, int]:
    value, shift = first & 127, 7
    while True:
        byte = raw[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128 or shift > 63:
            return value, position
        shift += 7
