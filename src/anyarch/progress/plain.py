"""`--progress=plain`: text for logs, in BuildKit's form, readable from top to bottom though steps run side
by side.

One step has the floor at a time. It loses it when another has completed (which is then printed in one
piece), or when it has been silent, or others have waited long; `#5 ...` marks that it will come back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TextIO

from anyarch.progress.trace import clean_name, transferred
from anyarch.solver.events import StatusEvent, VertexEvent, WarningEvent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anyarch.progress.trace import Step, Trace
    from anyarch.solver.events import Event

__all__ = ["PlainRenderer"]

SILENT_S = 1.0
"""A step that has printed nothing for so long gives way to one that has something to say."""
WAITED_S = 4.0
"""What another step has to say waits so long at most."""
STATUS_EVERY_S = 5.0
STATUS_EVERY_SHARE = 0.05
"""A transfer is mentioned again after this time or this share of its size."""


class _Pending:
    """What a step has to say and has not yet said. `since` is when it began to wait."""

    __slots__ = ("is_done", "lines", "since", "step")

    def __init__(self, step: Step, since: float) -> None:
        self.step = step
        self.since = since
        self.lines: list[str] = []
        self.is_done = False


class PlainRenderer:
    """Writes to `stream`, first `heading` if there is one. Steps are numbered in the order in which they are
    first printed."""

    def __init__(self, stream: TextIO, heading: str = "") -> None:
        self._stream = stream
        self._text: list[str] = [f"#0 {heading}\n"] if heading else []
        self._numbers: dict[str, int] = {}
        self._waiting: dict[str, _Pending] = {}
        self._floor: Step | None = None
        self._floor_spoke = 0.0
        self._closed: dict[str, tuple[float | None, float | None]] = {}
        self._statuses: dict[tuple[str, str], tuple[float, int]] = {}
        self._is_first = not heading

    def update(self, trace: Trace, updates: Sequence[tuple[Event, list[str]]], now: float) -> None:
        for event, lines in updates:
            digest = event.digest if isinstance(event, VertexEvent) else event.vertex
            step = trace.steps.get(digest)
            if step is not None:
                self._take(step, event, lines, now)
        self._speak(now)
        self._write()

    def refresh(self, trace: Trace, now: float) -> None:
        if self._waiting:
            self._speak(now)
            self._write()

    def finish(self, trace: Trace, now: float) -> None:
        for pending in list(self._waiting.values()):
            if pending.lines or pending.is_done or pending.step.digest not in self._numbers:
                self._give_floor(pending)
        self._write()

    def _take(self, step: Step, event: Event, lines: list[str], now: float) -> None:
        if isinstance(event, VertexEvent):
            if event.started is None:
                return
            times = (event.started, event.completed)
            if self._closed.get(step.digest) == times:
                return  # told again what is known
            pending = self._pending(step, now)
            pending.lines += lines
            if event.completed is not None:
                self._closed[step.digest] = times
                pending.lines.append(_ending(step))
                pending.is_done = True
        elif isinstance(event, StatusEvent):
            line = self._status(event)
            if line is not None:
                self._pending(step, now).lines.append(line)
        elif isinstance(event, WarningEvent):
            self._pending(step, now).lines.append(f"WARN: {clean_name(event.short)}")
        elif lines:
            self._pending(step, now).lines += lines

    def _pending(self, step: Step, now: float) -> _Pending:
        pending = self._waiting.get(step.digest)
        if pending is None:
            pending = self._waiting[step.digest] = _Pending(step, now)
        return pending

    def _status(self, event: StatusEvent) -> str | None:
        """The line for a transfer, None while it would be no news."""
        key = (event.vertex, event.id)
        last = self._statuses.get(key)
        if last is not None and event.completed is None:
            share = (event.current - last[1]) / event.total if event.total else 0.0
            if event.timestamp - last[0] < STATUS_EVERY_S and share < STATUS_EVERY_SHARE:
                return None
        self._statuses[key] = (event.timestamp, event.current)
        text = clean_name(event.id) + transferred(event)
        end = event.completed if event.completed is not None else event.timestamp
        if event.started is not None and end - event.started > 0.01:
            text += f" {end - event.started:.1f}s"
        return text + (" done" if event.completed is not None else "")

    def _speak(self, now: float) -> None:
        """Print what may be printed now."""
        floor = self._floor
        if floor is not None and floor.digest in self._waiting:
            self._give_floor(self._waiting[floor.digest])
            self._floor_spoke = now
        for pending in sorted(
            (p for p in self._waiting.values() if p.is_done), key=lambda p: p.step.completed or 0.0
        ):
            self._give_floor(pending)
        if not self._waiting:
            return
        # Who has output to show comes before who has only begun; then who has waited longest.
        following = min(self._waiting.values(), key=lambda p: (not p.lines, p.since))
        if (
            self._floor is None
            or now - self._floor_spoke > SILENT_S
            or (following.lines and now - following.since > WAITED_S)
        ):
            self._give_floor(following)
            self._floor_spoke = now

    def _give_floor(self, pending: _Pending) -> None:
        """Print all that a step has to say, with its name when it did not have the floor."""
        step = pending.step
        number = self._numbers.get(step.digest)
        if number is None:
            number = self._numbers[step.digest] = len(self._numbers) + 1
        if self._floor is not step:
            if self._floor is not None:
                self._text.append(f"#{self._numbers[self._floor.digest]} ...\n")
            if not self._is_first:
                self._text.append("\n")
            self._is_first = False
            self._text.append(f"#{number} {step.name}\n")
        if pending.lines:
            prefix = f"#{number} "
            self._text += (prefix, f"\n{prefix}".join(pending.lines), "\n")
        del self._waiting[step.digest]
        self._floor = None if pending.is_done else step

    def _write(self) -> None:
        if self._text:
            text, self._text = "".join(self._text), []
            self._stream.write(text)
            self._stream.flush()


def _ending(step: Step) -> str:
    if step.is_canceled:
        return "CANCELED"
    if step.error:
        return f"ERROR: {step.error}"
    return "CACHED" if step.cached else f"DONE {step.spent:.1f}s"
