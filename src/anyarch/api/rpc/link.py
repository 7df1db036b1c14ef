"""A connection together with what carries its bytes and with who answers its calls.

Every byte stream is the same to a `Link`: it gets `feed` and `ended`, and writes through a `Carrier`.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

from anyarch.api.http2.connection import Connection

if TYPE_CHECKING:
    from collections.abc import Callable

    from anyarch.api.http2.header import Headers
    from anyarch.api.http2.stream import Sink, Stream
    from anyarch.api.rpc.server import Server

__all__ = ["Carrier", "Link"]


class Carrier(Protocol):
    """Carries bytes to the peer."""

    def write(self, data: bytes) -> None:
        """Send, in order; never raises. A carrier that is full says so by `Connection.pause`."""

    def close(self) -> None:
        """Nothing more comes. May be called again."""


class Link:
    """Owns one connection, on the running event loop. `server` answers the streams of a peer in the client's
    role.

    `peer` is anything that identifies the client to handlers (default: the link itself).
    """

    def __init__(
        self, carrier: Carrier, *, client: bool, server: Server | None = None, max_streams: int = 1000
    ) -> None:
        self._carrier = carrier
        self._server = server
        self._loop = asyncio.get_running_loop()
        self.connection = Connection(self, client=client, max_streams=max_streams)
        self.lost_callbacks: list[Callable[[], None]] = []
        """Called once when the connection is over."""
        self.identity: object = None
        """What the carrier knows of the peer: a client certificate's name, credentials of a unix socket."""

    def start(self) -> None:
        self.connection.start()
        self.connection.flush()

    def feed(self, data: bytes | memoryview) -> None:
        self.connection.feed(data)

    def ended(self) -> None:
        """The peer's bytes are over."""
        self.connection.disconnected()

    # what the connection wants ---------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        self._carrier.write(data)

    def schedule(self, flush: Callable[[], None]) -> None:
        self._loop.call_soon(flush)

    def opened(self, stream: Stream, headers: Headers) -> Sink | None:
        return None if self._server is None else self._server.open(stream, headers, self)

    def lost(self, code: int, message: str) -> None:
        self._carrier.close()
        callbacks, self.lost_callbacks = self.lost_callbacks, []
        for callback in callbacks:
            callback()
