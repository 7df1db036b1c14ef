"""Connections over sockets: unix, TCP, TLS, and file descriptors that were handed over."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, cast

from anyarch.api.http2.errors import NO_ERROR
from anyarch.api.rpc.client import Channel
from anyarch.api.rpc.link import Link

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from anyarch.api.rpc.server import Server

__all__ = ["SocketLink", "connect_tcp", "connect_unix", "on_accept"]

_FULL = 4 << 20
_READ = 1 << 18
GREETING_S = 120.0
"""How long a client may take to begin."""
LINGER_S = 30.0
"""How long a connection that was closed waits for its peer to take what was sent before."""


class _Shared(threading.local):
    """What connections of one event loop read into. None of them keeps a part of it beyond `feed`, and a loop
    reads for one at a time, so it is the same for all."""

    def __init__(self) -> None:
        self.buffer = memoryview(bytearray(_READ))


_shared = _Shared()


class SocketLink(asyncio.BufferedProtocol):
    """A link over an asyncio transport."""

    def __init__(
        self,
        *,
        client: bool,
        server: Server | None = None,
        on_lost: Callable[[SocketLink], None] | None = None,
    ) -> None:
        self.link = Link(self, client=client, server=server)
        self._on_lost = on_lost
        self._is_server = not client
        self._greeting: asyncio.TimerHandle | None = None
        self._lingering: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport | None = None

    # asyncio.BufferedProtocol ----------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=_FULL)
        self.link.start()
        if self._is_server:
            self._greeting = asyncio.get_running_loop().call_later(GREETING_S, self._give_up)

    def _give_up(self) -> None:
        """Whoever says nothing does not hold a connection for ever."""
        if not self.link.connection.has_begun:
            self.link.connection.close(NO_ERROR, "no greeting came")

    def get_buffer(self, sizehint: int) -> memoryview:
        return _shared.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.link.feed(_shared.buffer[:nbytes])

    def pause_writing(self) -> None:
        self.link.connection.pause()

    def resume_writing(self) -> None:
        self.link.connection.resume()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        for timer in (self._greeting, self._lingering):
            if timer is not None:
                timer.cancel()
        self.link.ended()
        if self._on_lost is not None:
            self._on_lost(self)

    # Carrier ---------------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    def close(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.close()
            # What is left is sent, but not to a peer that never reads it.
            self._lingering = asyncio.get_running_loop().call_later(LINGER_S, self.abort)

    def abort(self) -> None:
        """Drop the connection with what was not sent."""
        if self._transport is not None:
            self._transport.abort()


def on_accept(server: Server, links: set[SocketLink]) -> Callable[[], SocketLink]:
    """A protocol factory for `loop.create_server` and `create_unix_server`; `links` holds the open ones."""

    def accept() -> SocketLink:
        link = SocketLink(client=False, server=server, on_lost=links.discard)
        links.add(link)
        return link

    return accept


async def connect_unix(path: str) -> Channel:
    """A channel to a unix socket. Raises `OSError`."""
    loop = asyncio.get_running_loop()
    _, protocol = await loop.create_unix_connection(lambda: SocketLink(client=True), path)
    return Channel(protocol.link.connection)


async def connect_tcp(
    host: str, port: int, *, tls: ssl.SSLContext | None = None, server_name: str | None = None
) -> Channel:
    """A channel to a TCP port, by TLS where `tls` is given (it should offer ALPN `h2`). Raises `OSError`,
    also for a certificate that is not accepted."""
    loop = asyncio.get_running_loop()
    _, protocol = await loop.create_connection(
        lambda: SocketLink(client=True),
        host,
        port,
        ssl=tls,
        server_hostname=(server_name or host) if tls is not None else None,
    )
    authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return Channel(protocol.link.connection, authority=authority, scheme="https" if tls else "http")
