"""Collection beside builds: soon after one that made the store grow, at most once a minute, and never in the
way of an answer."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from anyarch.engine.storage import keep_limits
from anyarch.errors import AnyarchError
from anyarch.store.collect import CHECK_EVERY_S

if TYPE_CHECKING:
    from pathlib import Path

    from anyarch.daemon.log import Log

__all__ = ["Collector"]


class Collector:
    """`run` is a task of the daemon; `wake` asks for a collection. `rules` as the store's table `[gc]`, None:
    those that are configured for the user."""

    def __init__(self, root: Path, rules: dict[str, Any] | None, log: Log, *, every_s: float = CHECK_EVERY_S):
        self._root = root
        self._rules = rules
        self._log = log
        self._every_s = every_s
        self._wanted = asyncio.Event()

    def wake(self) -> None:
        self._wanted.set()

    async def run(self) -> None:
        """Until it is cancelled. What goes wrong is told in the log, and does not end it."""
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            try:
                removed = await asyncio.to_thread(keep_limits, self._root, self._rules)
            except (AnyarchError, OSError) as error:
                self._log.error(f"the store could not be collected: {error}")
            else:
                if removed:
                    size = sum(record.size for record in removed)
                    self._log.debug(f"collected {len(removed)} records of {size} bytes")
            await asyncio.sleep(self._every_s)
