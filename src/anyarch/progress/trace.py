"""What the events of a build add up to: one `Step` a vertex, warnings, failures with their last output.

Renderers draw from it, and the end of a build (error report, summary, metadata file) is written from it. It
is pure: no clock, no output.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import msgspec

from anyarch.solver.events import StatusEvent, VertexEvent, WarningEvent
from anyarch.spec.text import visible

if TYPE_CHECKING:
    from anyarch.solver.events import Event, LogEvent

__all__ = ["Failure", "Step", "Trace", "clean_name", "format_bytes", "format_offset", "transferred"]

KEPT_LINES = 10
"""Lines of a step's output that are kept for the report of its failure, unless a renderer wants more."""

_LONGEST_LINE = 64 * 1024
_USERINFO = re.compile(r"(?<=://)[^/@\s]+:[^/@\s]+(?=@)")


class Failure(msgspec.Struct, frozen=True):
    """A step that failed: its name and the last lines of its output."""

    name: str
    lines: list[str]


class Step:
    """One vertex as a reader sees it. Times are Unix seconds; `spent` sums the finished runs (a vertex that
    is run again starts anew)."""

    __slots__ = (
        "cached",
        "completed",
        "digest",
        "error",
        "lines",
        "name",
        "partial",
        "spent",
        "started",
        "statuses",
        "warnings",
    )

    def __init__(self, digest: str) -> None:
        self.digest = digest
        self.name = ""
        self.started: float | None = None
        self.completed: float | None = None
        self.spent = 0.0
        self.cached = False
        self.error = ""
        self.statuses: dict[str, StatusEvent] = {}
        self.warnings: list[WarningEvent] = []
        self.lines: list[str] = []  # the last ones, each `OFFSET TEXT`
        self.partial = b""

    @property
    def is_running(self) -> bool:
        return self.started is not None and self.completed is None

    @property
    def is_canceled(self) -> bool:
        return self.error.endswith("context canceled")

    def seconds(self, now: float) -> float:
        """How long it has run in all."""
        running = max(now - self.started, 0.0) if self.started is not None and self.completed is None else 0.0
        return self.spent + running


class Trace:
    """All steps, in order of announcement in `steps` and of their start in `started`."""

    def __init__(self, *, kept_lines: int = KEPT_LINES) -> None:
        self._kept_lines = kept_lines
        self.steps: dict[str, Step] = {}
        self.started: list[Step] = []
        self.warnings: list[WarningEvent] = []
        self.first: float | None = None

    def apply(self, event: Event) -> list[str]:
        """Take an event in. The lines of output that it completed are returned (`OFFSET TEXT`), for whom it
        is cheaper to have them now than to look for them later."""
        if isinstance(event, VertexEvent):
            return self._vertex(event)
        step = self.steps.get(event.vertex)
        if isinstance(event, WarningEvent):
            self.warnings.append(event)
            if step is not None:
                step.warnings.append(event)
            return []
        if step is None:
            return []
        if isinstance(event, StatusEvent):
            step.statuses[clean_name(event.id)] = event
            return []
        return self._log(step, event)

    def failures(self) -> tuple[Failure, ...]:
        """The steps that failed, in order of their start; those that were only stopped are left out."""
        return tuple(
            Failure(step.name, step.lines[-KEPT_LINES:])
            for step in self.started
            if step.error and not step.is_canceled
        )

    def counts(self) -> tuple[int, int]:
        """How many steps are done, of how many announced."""
        return sum(step.completed is not None for step in self.steps.values()), len(self.steps)

    def _vertex(self, event: VertexEvent) -> list[str]:
        step = self.steps.get(event.digest)
        if step is None:
            step = self.steps[event.digest] = Step(event.digest)
        if event.name:
            step.name = clean_name(event.name)
        if event.started is None:
            return []  # announced (again)
        if step.started is None:
            self.started.append(step)
        if self.first is None or event.started < self.first:
            self.first = event.started
        was_running = step.started != event.started or step.completed is None
        step.started, step.completed = event.started, event.completed
        step.cached, step.error = event.cached, clean_name(event.error)
        if event.completed is None:
            return []
        if was_running:
            step.spent += max(event.completed - event.started, 0.0)
        return self._flush(step, event.completed)

    def _flush(self, step: Step, now: float) -> list[str]:
        if not step.partial:
            return []
        partial, step.partial = step.partial, b""
        return self._keep(step, _lines(step, partial, now))

    def _log(self, step: Step, event: LogEvent) -> list[str]:
        data = step.partial + event.data if step.partial else event.data
        end = data.rfind(b"\n")
        if end < 0 and len(data) < _LONGEST_LINE:
            step.partial = data
            return []
        step.partial = data[end + 1 :] if end >= 0 else b""
        return self._keep(step, _lines(step, data[:end] if end >= 0 else data, event.timestamp))

    def _keep(self, step: Step, lines: list[str]) -> list[str]:
        kept = self._kept_lines
        step.lines = [*step.lines, *lines[-kept:]][-kept:]
        return lines


def _lines(step: Step, data: bytes, now: float) -> list[str]:
    """The lines of `data`, all at once: a step may print millions."""
    text = data.decode("utf-8", "replace")
    lines = text.split("\n")
    if "\r" in text:
        # Of a line that a program has rewritten with carriage returns (a progress bar) the last state is
        # what counts.
        lines = [line.rstrip("\r").rpartition("\r")[2] for line in lines]
    offset = format_offset(now - step.started if step.started is not None else 0.0)
    return [f"{offset} {line}" for line in lines]


def clean_name(text: str) -> str:
    """`text` on one line and without the password of a URL in it."""
    if "://" in text:
        text = _USERINFO.sub("xxxxx:xxxxx", text)
    return text if text.isprintable() else visible(text.replace("\n", " ").replace("\r", " "))


def format_offset(seconds: float) -> str:
    """Time since a step began, four significant digits: `0.213`, `12.45`, `103.2`."""
    seconds = max(seconds, 0.0)
    return f"{seconds:.{3 if seconds < 10 else 2 if seconds < 100 else 1}f}"


def format_bytes(count: int) -> str:
    """Decimal units as Docker's tools print them: `31B`, `1.05kB`, `2.10MB`."""
    if count < 1000:
        return f"{count}B"
    size = float(count)
    for unit in ("kB", "MB", "GB", "TB"):
        size /= 1000
        if size < 999.995 or unit == "TB":
            break
    return f"{size:.2f}{unit}"


def transferred(event: StatusEvent) -> str:
    """` 1.05kB / 2.10MB`, ` 31B`, or nothing."""
    if event.total:
        return f" {format_bytes(event.current)} / {format_bytes(event.total)}"
    return f" {format_bytes(event.current)}" if event.current else ""
