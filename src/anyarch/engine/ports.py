"""Ports of a running program under other numbers (`run -p 8080:80`).

A program shares the machine's network, so a port that it opens is there already; a mapping to another number
is a relay in this process.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from anyarch.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from anyarch.engine.request import Port

__all__ = ["relaying"]

_PIECE = 1 << 16


@asynccontextmanager
async def relaying(ports: Sequence[Port]) -> AsyncIterator[None]:
    """Pass on TCP connections to `host` ports while the block runs. Raises `UsageError` where one is
    taken."""
    servers = []
    jobs: set[asyncio.Task[None]] = set()
    try:
        for port in ports:
            if port.host == port.container and not port.address:
                continue
            try:
                servers.append(
                    await asyncio.start_server(_handler(port, jobs), port.address or None, port.host)
                )
            except OSError as error:
                raise UsageError(
                    f"port {port.host}: {error.strerror or error}",
                    hint="choose another port, or end what has it",
                ) from None
        yield
    finally:
        for server in servers:
            server.close()
        for job in list(jobs):
            job.cancel()
        await asyncio.gather(*jobs, return_exceptions=True)
        for server in servers:
            await server.wait_closed()


def _handler(port: Port, jobs: set[asyncio.Task[None]]):  # type: ignore[no-untyped-def]  # asyncio's own shape
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        jobs.add(task)
        try:
            inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", port.container)
        except OSError:
            writer.close()  # nobody listens yet: as if the port were closed
            return
        finally:
            jobs.discard(task)
        jobs.add(task)
        try:
            await asyncio.gather(_pass(reader, inner_writer), _pass(inner_reader, writer))
        finally:
            jobs.discard(task)
            for end in (writer, inner_writer):
                end.close()

    return handle


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(_PIECE):
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
    except (ConnectionError, OSError):
        writer.close()
