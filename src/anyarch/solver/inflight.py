"""What the solvers of one process are running now, so that equal work is done once at a time."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress

__all__ = ["InFlight"]


class InFlight:
    """Claims on canonical keys. Thread-safe: each solver may have an event loop of its own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[str, list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]]] = {}

    def claim(self, canonical: str) -> bool:
        """Whether the caller is now the one who is at this work; it must `release` it."""
        with self._lock:
            if canonical in self._waiting:
                return False
            self._waiting[canonical] = []
            return True

    async def wait(self, canonical: str) -> None:
        """Until whoever has a claim on `canonical` has released it; at once when nobody has."""
        loop = asyncio.get_running_loop()
        end = loop.create_future()
        with self._lock:
            waiting = self._waiting.get(canonical)
            if waiting is None:
                return
            waiting.append((loop, end))
        await end

    def release(self, canonical: str) -> None:
        with self._lock:
            waiting = self._waiting.pop(canonical)
        for loop, end in waiting:
            with suppress(RuntimeError):  # its loop has ended, and with it whoever waited
                loop.call_soon_threadsafe(_end, end)

    @property
    def is_idle(self) -> bool:
        """Whether nothing is claimed."""
        return not self._waiting


def _end(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
