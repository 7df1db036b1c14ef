"""The engine in this process as a node: always there, nothing to start. The builder `default` has it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from anyarch.builder.driver import NodeState, WorkerInfo
from anyarch.errors import NotSupported

if TYPE_CHECKING:
    from collections.abc import Callable

    from anyarch.builder.driver import DriverSetup
    from anyarch.builder.stream import ByteStream
    from anyarch.engine.request import BuildRequest, BuildResult, CancelToken
    from anyarch.solver.events import EventSink

__all__ = ["EmbeddedClient", "EmbeddedDriver", "open_driver"]


def open_driver(setup: DriverSetup) -> EmbeddedDriver:
    return EmbeddedDriver(setup)


class EmbeddedClient:
    """Builds on the running event loop."""

    async def workers(self) -> list[WorkerInfo]:
        import asyncio

        from anyarch.engine.emulators import usable_platforms
        from anyarch.spec.platform import host_platform

        found = await asyncio.to_thread(usable_platforms, is_root=os.geteuid() == 0)
        return [WorkerInfo(id=os.uname().nodename, platforms=tuple(dict.fromkeys([host_platform(), *found])))]

    async def version(self) -> str:
        from anyarch.version import __version__

        return f"v{__version__}"

    async def build(
        self, request: BuildRequest, on_event: EventSink, cancel: CancelToken | None
    ) -> BuildResult:
        from anyarch.engine.solve import build_async

        return await build_async(request, on_event, cancel)

    async def close(self) -> None:
        """Nothing is held open."""


class EmbeddedDriver:
    def __init__(self, setup: DriverSetup) -> None:
        self._setup = setup

    @property
    def default_load(self) -> bool:
        return False

    async def state(self) -> NodeState:
        return NodeState(status="running")

    async def start(self, log: Callable[[str], None]) -> None:
        """It runs already."""

    async def stop(self) -> None:
        """It ends with the process."""

    async def remove(self, *, keep_state: bool, keep_daemon: bool) -> None:
        """It is not an instance that could be removed."""

    async def client(self) -> EmbeddedClient:
        return EmbeddedClient()

    async def dial(self) -> ByteStream:
        raise NotSupported(
            "the builder default is the engine in this process, it has no socket to connect to",
            hint="start anyarchd and make a builder of it: anyarch create --driver remote unix://...",
        )
