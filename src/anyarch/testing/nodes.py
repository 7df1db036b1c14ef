"""Nodes without daemons: each builds with the engine of this process in a store of its own, reports the
platforms that it is told to report, and can be made to fail as machines do.

`register` makes a node known under an endpoint; a test puts this module in the place of a driver
(`anyarch.builder.driver.DRIVERS`).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec

from anyarch.builder.driver import NodeState, WorkerInfo
from anyarch.builder.stream import SocketStream
from anyarch.errors import NodeLost
from anyarch.spec.platform import Platform

if TYPE_CHECKING:
    from collections.abc import Callable

    from anyarch.builder.driver import DriverSetup
    from anyarch.builder.stream import ByteStream
    from anyarch.engine.request import BuildRequest, BuildResult, CancelToken
    from anyarch.solver.events import EventSink

__all__ = ["FakeNode", "clear", "open_driver", "register"]

_NODES: dict[str, FakeNode] = {}


class FakeNode:
    """A node and what happened to it. `answer` takes the place of the engine. `is_lost` means that it cannot
    be reached; `lose_after` that it goes away after so many events of a build."""

    def __init__(
        self,
        root: str = "",
        platforms: tuple[str, ...] = ("linux/amd64",),
        *,
        status: str = "running",
        answer: Callable[[BuildRequest], BuildResult] | None = None,
    ) -> None:
        self.root = root
        self.platforms = platforms
        self.status = status
        self.answer = answer
        self.is_lost = False
        self.lose_after: int | None = None
        self.delay_s = 0.0
        self.requests: list[BuildRequest] = []
        self.calls: list[str] = []
        self.default_load = False
        self.dial_path = ""

    # the driver

    async def state(self) -> NodeState:
        self.calls.append("state")
        await self._pause()
        return NodeState(status=self.status)

    async def start(self, log: Callable[[str], None]) -> None:
        self.calls.append("start")
        log("starting")
        await self._pause()
        self.status = "running"

    async def stop(self) -> None:
        self.calls.append("stop")
        await self._pause()
        self.status = "stopped"

    async def remove(self, *, keep_state: bool, keep_daemon: bool) -> None:
        self.calls.append(f"remove keep_state={keep_state} keep_daemon={keep_daemon}")
        await self._pause()
        self.status = "inactive"

    async def client(self) -> FakeNode:
        await self._pause()
        return self

    async def dial(self) -> ByteStream:
        reader, writer = await asyncio.open_unix_connection(self.dial_path)
        return SocketStream(reader, writer, "fake node")

    async def _pause(self) -> None:
        if self.delay_s:
            await asyncio.sleep(self.delay_s)
        if self.is_lost:
            raise NodeLost("connection refused")

    # the client

    async def workers(self) -> list[WorkerInfo]:
        platforms = tuple(Platform.parse(text) for text in self.platforms)
        return [WorkerInfo(id=f"worker-{id(self):x}", platforms=platforms, labels={"kind": "fake"})]

    async def version(self) -> str:
        return "v0.0-fake"

    async def build(
        self, request: BuildRequest, on_event: EventSink, cancel: CancelToken | None
    ) -> BuildResult:
        self.requests.append(request)
        await self._pause()
        if self.answer is not None:
            return self.answer(request)
        from anyarch.engine.solve import build_async

        seen = 0
        lost = asyncio.get_running_loop().create_future()

        def emit(event: object) -> None:
            nonlocal seen
            seen += 1
            if self.lose_after is not None and seen > self.lose_after and not lost.done():
                self.is_lost = True
                lost.set_exception(NodeLost("connection reset by peer"))
            on_event(event)  # type: ignore[arg-type]

        work = asyncio.ensure_future(
            build_async(msgspec.structs.replace(request, root=self.root), emit, cancel)
        )
        try:
            await asyncio.wait({work, lost}, return_when=asyncio.FIRST_COMPLETED)
            if lost.done():
                lost.result()
            return await work
        finally:
            work.cancel()
            await asyncio.wait({work})
            lost.cancel()

    async def close(self) -> None:
        """Nothing is held open."""


def register(endpoint: str, node: FakeNode) -> FakeNode:
    _NODES[endpoint] = node
    return node


def clear() -> None:
    _NODES.clear()


def open_driver(setup: DriverSetup) -> FakeNode:
    """The node that was registered under the endpoint. Raises `NodeLost`."""
    try:
        return _NODES[setup.node.endpoint]
    except KeyError:
        raise NodeLost(f"no node at {setup.node.endpoint}") from None
