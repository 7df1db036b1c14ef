"""A connection over a pair of file descriptors: the standard input and output of a process that speaks the
interface there."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, BinaryIO

from anyarch.api.rpc.link import Link

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from anyarch.api.rpc.server import Server

__all__ = ["pipe_link"]


class _PipeCarrier(asyncio.Protocol):
    def __init__(self) -> None:
        self.link: Link
        self.transport: asyncio.WriteTransport | None = None

    def pause_writing(self) -> None:
        self.link.connection.pause()

    def resume_writing(self) -> None:
        self.link.connection.resume()

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self.link.ended()

    def write(self, data: bytes) -> None:
        if self.transport is not None:
            self.transport.write(data)

    def close(self) -> None:
        if self.transport is not None:
            self.transport.close()


class _PipeReader(asyncio.Protocol):
    def __init__(self, link: Link) -> None:
        self._link = link

    def data_received(self, data: bytes) -> None:
        self._link.feed(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._link.ended()


@asynccontextmanager
async def pipe_link(
    incoming: BinaryIO, outgoing: BinaryIO, *, client: bool, server: Server | None = None
) -> AsyncIterator[Link]:
    """The link over `incoming` (the peer's bytes) and `outgoing`; both are closed at the end."""
    loop = asyncio.get_running_loop()
    carrier = _PipeCarrier()
    carrier.link = link = Link(carrier, client=client, server=server)
    writing, _ = await loop.connect_write_pipe(lambda: carrier, outgoing)
    carrier.transport = writing
    reading, _ = await loop.connect_read_pipe(lambda: _PipeReader(link), incoming)
    link.start()
    try:
        yield link
    finally:
        link.connection.close()
        reading.close()
        writing.close()
