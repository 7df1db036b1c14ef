"""The thread between a build and a renderer.

`Display.sink` only puts an event into a queue, so it may be called from any thread and never waits for a
terminal. Whatever happens to the renderer (a closed pipe, a fault) never reaches the build: the display
then goes on counting without drawing.
"""

from __future__ import annotations

import queue
import threading
import time
from typing import TYPE_CHECKING, Protocol

from anyarch.progress.trace import KEPT_LINES, Trace
from anyarch.solver.events import LogEvent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anyarch.solver.events import Event

__all__ = ["Display", "Renderer"]

Update = tuple["Event", list[str]]
"""An event with the lines of output that it completed."""

_MOST_WAITING_BYTES = 16 << 20
_BATCH = 2000


class Renderer(Protocol):
    """Draws a trace. Called from one thread only."""

    def update(self, trace: Trace, updates: Sequence[tuple[Event, list[str]]], now: float) -> None:
        """These events have just been applied to `trace`. `now` is Unix time."""

    def refresh(self, trace: Trace, now: float) -> None:
        """Some time has passed without (or after) an update."""

    def finish(self, trace: Trace, now: float) -> None:
        """No more events come: draw what is to stay."""


class Display:
    """Runs `renderer` (None: draw nothing) on a thread of its own, from `start` to `close`."""

    def __init__(
        self, renderer: Renderer | None, *, tick_s: float = 0.1, kept_lines: int = KEPT_LINES
    ) -> None:
        self.trace = Trace(kept_lines=kept_lines)
        self.failure: BaseException | None = None
        self._renderer = renderer
        self._tick_s = tick_s
        self._queue: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._waiting_bytes = 0
        self._lost_bytes = 0
        self._thread: threading.Thread | None = None

    def start(self) -> Display:
        self._thread = threading.Thread(target=self._run, name="progress", daemon=True)
        self._thread.start()
        return self

    def sink(self, event: Event) -> None:
        """Take an event, from any thread. Output beyond what a slow terminal can show is dropped, and said
        to be."""
        if isinstance(event, LogEvent):
            size = len(event.data)
            if self._waiting_bytes > _MOST_WAITING_BYTES:
                self._lost_bytes += size
                return
            self._waiting_bytes += size
            if self._lost_bytes:
                lost, self._lost_bytes = self._lost_bytes, 0
                note = f"[{lost} bytes of output not shown: faster than the display]\n".encode()
                self._queue.put(LogEvent(event.vertex, 2, note, event.timestamp))
        self._queue.put(event)

    def close(self) -> None:
        """Draw what is to stay and end the thread. May be called twice."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._queue.put(None)
            thread.join()

    def __enter__(self) -> Display:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self) -> None:
        is_open = True
        while is_open:
            batch, is_open = self._batch()
            updates = [(event, self.trace.apply(event)) for event in batch]
            now = time.time()
            if updates:
                self._draw("update", updates, now)
            self._draw("refresh" if is_open else "finish", None, now)

    def _batch(self) -> tuple[list[Event], bool]:
        """What is in the queue, after waiting one tick at most (for ever when nothing is drawn); False at
        the end."""
        events: list[Event] = []
        try:
            event = self._queue.get(timeout=self._tick_s if self._renderer is not None else None)
            while True:
                if event is None:
                    return events, False
                if isinstance(event, LogEvent):
                    self._waiting_bytes -= len(event.data)
                events.append(event)
                if len(events) >= _BATCH:
                    return events, True
                event = self._queue.get_nowait()
        except queue.Empty:
            return events, True

    def _draw(self, what: str, updates: list[Update] | None, now: float) -> None:
        renderer = self._renderer
        if renderer is None:
            return
        try:
            if updates is not None:
                renderer.update(self.trace, updates, now)
            elif what == "refresh":
                renderer.refresh(self.trace, now)
            else:
                renderer.finish(self.trace, now)
        except Exception as error:  # whatever it is, the build is not to suffer
            self.failure = error
            self._renderer = None
