"""A connection inside a call: its bytes are those of the `data` field of the call's messages.

A build session is one: `Control.Session` carries a second connection in which the client of the outer one
answers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from anyarch.api.http2.stream import HIGH_WATER
from anyarch.api.rpc.link import Link

if TYPE_CHECKING:
    from anyarch.api.rpc.messages import MessageStream
    from anyarch.api.rpc.server import Server
    from anyarch.api.rpc.status import RpcError

__all__ = ["Tunnel", "data_message", "message_data"]

_CHUNK = 1 << 20


def data_message(data: bytes | memoryview) -> bytes:
    """A message of any type whose first field is `bytes data`."""
    size = len(data)
    if not size:
        return b""
    head = bytearray(b"\x0a")
    while size > 127:
        head.append(size & 127 | 128)
        size >>= 7
    head.append(size)
    return bytes(head) + data


def message_data(message: bytes | memoryview) -> bytes | memoryview:
    """The `data` of such a message. A message of any other form has none that we know."""
    if not message or message[0] != 0x0A:
        return b""
    size = shift = 0
    position = 1
    end = len(message)
    while position < end and shift < 35:
        byte = message[position]
        position += 1
        size |= (byte & 127) << shift
        if byte < 128:
            break
        shift += 7
    return message[position : position + size]


class Tunnel:
    """The link inside `call`. With `client` we are the client of the inner connection (and `link.connection`
    is for a `Channel`), else `server` answers. Ends with the call; the call ends with the tunnel's own
    `close`."""

    def __init__(self, call: MessageStream, *, client: bool, server: Server | None = None) -> None:
        self._call = call
        self._closed = False
        self.link = Link(self, client=client, server=server)
        call.on_drained = self._drained
        call.on_end_callback = self._ended
        self.link.start()  # before what has already come: the greeting goes first
        call.on_message(self._message)

    def _message(self, message: bytes | memoryview) -> None:
        self.link.connection.feed(message_data(message))

    def _ended(self, error: RpcError | None) -> None:
        self.link.ended()

    def _drained(self) -> None:
        connection = self.link.connection
        if connection.paused:
            connection.resume()

    # Carrier ---------------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        if self._closed:
            return
        call = self._call
        if len(data) <= _CHUNK:
            call.send_nowait(data_message(data))
        else:
            view = memoryview(data)
            for start in range(0, len(data), _CHUNK):
                call.send_nowait(data_message(view[start : start + _CHUNK]))
        if call.pending > HIGH_WATER:
            self.link.connection.pause()

    def close(self) -> None:
        """The inner connection is over."""
        if not self._closed:
            self._closed = True
            self._call.end()
