"""From a connection to a BuildKit daemon to a `NodeClient`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anyarch.errors import NotSupported

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from anyarch.builder.driver import NodeClient
    from anyarch.builder.stream import ByteStream

__all__ = ["open_client"]


async def open_client(dial: Callable[[], Awaitable[ByteStream]], label: str) -> NodeClient:
    """A client of the daemon that `dial` connects to; `label` names it in errors."""
    await (await dial()).close()  # whether it is there can be told
    raise NotSupported(f"{label}: this release cannot build on other daemons yet")
