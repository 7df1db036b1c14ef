"""A WebSocket client over a byte stream (RFC 6455), as far as Kubernetes' exec needs it: binary messages, one
byte of which says which channel they are for (`v4.channel.k8s.io`, `v5.channel.k8s.io`)."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from anyarch.errors import NodeLost

if TYPE_CHECKING:
    from anyarch.builder.stream import ByteStream

__all__ = ["PROTOCOLS", "ChannelStream", "decode_frame", "encode_frame"]

PROTOCOLS = ("v5.channel.k8s.io", "v4.channel.k8s.io")
_STDIN, _STDOUT, _STDERR, _STATUS, _CLOSE = 0, 1, 2, 3, 255
_BINARY, _CLOSED, _PING, _PONG = 2, 8, 9, 10
_PIECE = 32 << 10
_LONGEST = 16 << 20


def encode_frame(kind: int, data: bytes, mask: bytes) -> bytes:
    """A whole message; a client's are masked."""
    size = len(data)
    if size < 126:
        head = bytes([0x80 | kind, 0x80 | size])
    elif size < 1 << 16:
        head = bytes([0x80 | kind, 0x80 | 126]) + size.to_bytes(2, "big")
    else:
        head = bytes([0x80 | kind, 0x80 | 127]) + size.to_bytes(8, "big")
    return head + mask + _masked(data, mask)


def _masked(data: bytes, mask: bytes) -> bytes:
    size = len(data)
    key = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(data, "big") ^ int.from_bytes(key, "big")).to_bytes(size, "big") if size else b""


def decode_frame(buffer: bytes) -> tuple[int, bool, bytes, int] | None:
    """Kind, whether it ends the message, data and length of the frame that `buffer` begins with; None while
    it is not whole."""
    if len(buffer) < 2:
        return None
    kind, is_last = buffer[0] & 0x0F, bool(buffer[0] & 0x80)
    is_masked, size, at = bool(buffer[1] & 0x80), buffer[1] & 0x7F, 2
    if size > 125:
        width = 2 if size == 126 else 8
        if len(buffer) < at + width:
            return None
        size = int.from_bytes(buffer[at : at + width], "big")
        at += width
    if size > _LONGEST:
        raise NodeLost("the server sent a message that is too long")
    mask = buffer[at : at + 4] if is_masked else b""
    at += len(mask) if is_masked else 0
    if len(buffer) < at + size or (is_masked and len(mask) < 4):
        return None
    data = buffer[at : at + size]
    return kind, is_last, _masked(data, mask) if is_masked else data, at + size


class ChannelStream:
    """A program's streams over a WebSocket. What it said on standard error, and how it ended, is told when it
    ends without having answered."""

    def __init__(self, stream: ByteStream, label: str, *, can_half_close: bool) -> None:
        self._stream = stream
        self._label = label
        self._can_half_close = can_half_close
        self._buffer = b""
        self._output = b""
        self._message = b""
        self._said = b""
        self._has_answered = False
        self._is_over = False

    async def read(self, size: int) -> bytes:
        while not self._output and not self._is_over:
            frame = decode_frame(self._buffer)
            if frame is None:
                data = await self._stream.read(256 << 10)
                if not data:
                    self._is_over = True
                self._buffer += data
                continue
            kind, is_last, data, length = frame
            self._buffer = self._buffer[length:]
            if kind == _PING:
                await self._stream.write(encode_frame(_PONG, data, os.urandom(4)))
            elif kind == _CLOSED:
                self._is_over = True
            elif kind in (0, 1, _BINARY):
                self._message += data
                if is_last:
                    self._take(self._message)
                    self._message = b""
        if self._output:
            data, self._output = self._output[:size], self._output[size:]
            self._has_answered = True
            return data
        if not self._has_answered and self._said:
            said = self._said.decode("utf-8", "replace").strip()
            raise NodeLost(f"{self._label}: {said.splitlines()[-1] if said else 'it ended'}")
        return b""

    def _take(self, message: bytes) -> None:
        channel, data = message[:1], message[1:]
        if channel == bytes([_STDOUT]):
            self._output += data
        elif channel == bytes([_STDERR]):
            self._said = (self._said + data)[-4096:]
        elif channel == bytes([_STATUS]):
            self._is_over = True
            if b'"Success"' not in data:
                self._said += _reason(data)

    async def write(self, data: bytes) -> None:
        for start in range(0, len(data), _PIECE):
            piece = bytes([_STDIN]) + data[start : start + _PIECE]
            await self._stream.write(encode_frame(_BINARY, piece, os.urandom(4)))

    async def end_writing(self) -> None:
        if self._can_half_close:
            await self._stream.write(encode_frame(_BINARY, bytes([_CLOSE, _STDIN]), os.urandom(4)))

    async def close(self) -> None:
        try:
            if not self._is_over:
                await self._stream.write(encode_frame(_CLOSED, b"\x03\xe8", os.urandom(4)))
        except NodeLost:
            self._is_over = True
        await self._stream.close()


def _reason(raw: bytes) -> bytes:
    """The words of a Status object."""
    import msgspec

    try:
        return str(msgspec.json.decode(raw).get("message") or "").encode()
    except (msgspec.DecodeError, AttributeError):
        return raw
