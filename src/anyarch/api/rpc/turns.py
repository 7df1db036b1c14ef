"""Calls whose answers are large, a few of a client at a time.

A call is answered at once and its answer waits for the window of the client: one that asks a thousand times
and reads nothing would make us keep a thousand answers.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from anyarch.api.rpc.server import Handler, ServerCall

__all__ = ["Turns"]


class Turns:
    """`few(handler)` is `handler` for `at_once` calls of one connection; the next one begins when the answer
    of one of those has been sent. Of one event loop."""

    def __init__(self, at_once: int) -> None:
        self._at_once = at_once
        self._of_peer: WeakKeyDictionary[object, asyncio.Semaphore] = WeakKeyDictionary()

    def few(self, handler: Handler) -> Handler:
        async def handle(call: ServerCall) -> None:
            turn = self._of_peer.get(call.peer)
            if turn is None:
                turn = self._of_peer[call.peer] = asyncio.Semaphore(self._at_once)
            async with turn:
                await handler(call)
                await call.drained()

        return handle
