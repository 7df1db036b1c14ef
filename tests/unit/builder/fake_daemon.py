"""A daemon of a test's own making: it answers Control with what the test tells it, and can call back into the
session as a friendly or hostile daemon would."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from anyarch.api.proto import control_pb2 as control
from anyarch.api.rpc.client import Channel
from anyarch.api.rpc.server import Server, unary
from anyarch.api.rpc.socket import connect_unix, on_accept
from anyarch.api.rpc.tunnel import Tunnel
from anyarch.builder.remote import RemoteBuilder

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from anyarch.api.rpc.server import ServerCall

    Script = Callable[["FakeDaemon", control.SolveRequest], Awaitable[dict[str, str]]]

CONTROL = "/moby.buildkit.v1.Control"


class FakeDaemon:
    """`script` is its Solve: it gets the request, may use `session` (a channel into the client), and gives
    the exporter's response. `status` are the messages of the Status stream."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.status: list[control.StatusResponse] = []
        self.requests: list[control.SolveRequest] = []
        self.session_metadata: list[tuple[str, str]] = []
        self._session: asyncio.Future[Channel] = asyncio.get_running_loop().create_future()
        self._over = asyncio.Event()

    @property
    async def session(self) -> Channel:
        return await self._session

    def methods(self) -> dict[str, Callable[[ServerCall], Awaitable[None]]]:
        async def session(call: ServerCall) -> None:
            call.send_headers()
            self.session_metadata = list(call.metadata)
            tunnel = Tunnel(call, client=True)
            self._session.set_result(Channel(tunnel.link.connection))
            await self._over.wait()

        async def status(call: ServerCall) -> None:
            await call.request(control.StatusRequest)
            for message in self.status:
                await call.send(message)

        async def solve(request: control.SolveRequest, _call: ServerCall) -> control.SolveResponse:
            self.requests.append(request)
            return control.SolveResponse(ExporterResponse=await self.script(self, request))

        return {
            f"{CONTROL}/Session": session,
            f"{CONTROL}/Status": status,
            f"{CONTROL}/Solve": unary(control.SolveRequest, solve),
        }


@asynccontextmanager
async def running(daemon: FakeDaemon, path: Path) -> AsyncIterator[RemoteBuilder]:
    """The daemon on a socket, and a client of it."""
    links: set[object] = set()
    async with Server(daemon.methods()) as server:
        listener = await asyncio.get_running_loop().create_unix_server(on_accept(server, links), str(path))  # type: ignore[arg-type]
        try:
            builder = RemoteBuilder(await connect_unix(str(path)), "fake")
            try:
                yield builder
            finally:
                await builder.close()
        finally:
            daemon._over.set()
            listener.close()
            await listener.wait_closed()
