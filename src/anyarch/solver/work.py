"""Work that no vertex of a graph stands for (an export, a node that starts), told as one."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from anyarch.solver.events import StatusEvent, VertexEvent
from anyarch.spec.digest import Digest

if TYPE_CHECKING:
    from anyarch.solver.events import EventSink

__all__ = ["Work"]


class Work:
    """Begun when it is made; `step` tells each thing done, `done` the end. `identity` tells works of one name
    apart."""

    def __init__(self, emit: EventSink, name: str, *, identity: str = "") -> None:
        self._emit = emit
        self._name = name
        self.digest = Digest.of((identity or name).encode())
        self._started = self._last = time.time()
        emit(VertexEvent(self.digest, name, started=self._started))

    def step(self, text: str) -> None:
        now = time.time()
        self._emit(StatusEvent(self.digest, text, "", 0, 0, now, self._last, now))
        self._last = now

    def done(self, error: str = "") -> None:
        now = time.time()
        self._emit(VertexEvent(self.digest, self._name, started=self._started, completed=now, error=error))
