"""`--progress=tty`: a picture of the running build that is redrawn in place.

`frame` decides which rows are shown, as a pure function of the trace and the size of the terminal;
`TTYRenderer` writes them over the previous ones. Running steps come first when the rows do not suffice, so
eight platforms stay readable in 24 rows. Of rich only the widths of characters are used: its console costs
24 ms of start-up, its live display loses its place when the terminal is made narrower. The cursor is hidden
only inside one write, so whatever ends the process leaves the terminal as it was.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, TextIO

from rich.cells import cell_len, set_cell_size

from anyarch.progress.trace import transferred

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anyarch.progress.trace import Step, Trace
    from anyarch.solver.events import Event

__all__ = ["Row", "TTYRenderer", "colors", "frame"]

LOG_LINES = 6
_COLORS = {
    "black": 30,
    "red": 31,
    "green": 32,
    "yellow": 33,
    "blue": 34,
    "magenta": 35,
    "cyan": 36,
    "white": 37,
}
_DEFAULT_COLORS = {"run": "34", "cancel": "33", "error": "31", "warning": "33", "log": "2"}
_UNPRINTABLE = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b.|[\x00-\x08\x0a-\x1f\x7f-\x9f]"
)


class Row:
    """One line: `text` at the left, `right` at the right edge, in the colour of `style`."""

    __slots__ = ("right", "style", "text")

    def __init__(self, text: str, right: str = "", style: str = "") -> None:
        self.text = text
        self.right = right
        self.style = style

    def fit(self, width: int) -> str:
        """The line, exactly `width` columns wide when it has a right part, else at most that."""
        text = self.text if self.text.isascii() and self.text.isprintable() else _printable(self.text)
        if not self.right:
            return text if cell_len(text) <= width else set_cell_size(text, width)
        room = max(width - len(self.right) - 1, 1)
        return f"{set_cell_size(text, room)} {self.right}"


class TTYRenderer:
    """Draws on `stream`, a terminal. `tick_s` is the least time between two pictures, `label` stands at the
    right of the first line."""

    def __init__(
        self, stream: TextIO, environment: Mapping[str, str], *, tick_s: float = 0.1, label: str = ""
    ) -> None:
        self._label = label
        self.tick_s = tick_s
        self.log_lines = _log_lines(environment)
        self._stream = stream
        self._colors = colors(environment)
        self._drawn: list[int] = []  # the width of each line on the screen
        self._last = 0.0

    def update(self, trace: Trace, updates: Sequence[tuple[Event, list[str]]], now: float) -> None:
        """Nothing: the picture is drawn at its own pace."""

    def refresh(self, trace: Trace, now: float) -> None:
        if trace.started and now - self._last >= self.tick_s:
            self._draw(trace, now, is_final=False)

    def finish(self, trace: Trace, now: float) -> None:
        if trace.started:
            self._draw(trace, now, is_final=True)

    def _draw(self, trace: Trace, now: float, *, is_final: bool) -> None:
        self._last = now
        width, height = _terminal_size(self._stream)
        rows = frame(trace, now, height=height, log_lines=self.log_lines, is_final=is_final)
        rows[0].right = self._label
        # The last column stays free: writing into it wraps on some terminals.
        lines = [row.fit(width - 1) for row in rows]
        # A terminal that was made narrower has wrapped what is on it.
        up = min(sum(max(-(-cells // width), 1) for cells in self._drawn), height - 1)
        parts = ["\x1b[?25l", f"\x1b[{up}A" if up else "", "\r"]
        for row, line in zip(rows, lines, strict=True):
            color = self._colors.get(row.style)
            parts.append(f"\x1b[{color}m{line}\x1b[0m\x1b[K\n" if color else f"{line}\x1b[K\n")
        parts.append("\x1b[J\x1b[?25h")
        self._drawn = [cell_len(line) for line in lines]
        self._stream.write("".join(parts))
        self._stream.flush()


def frame(
    trace: Trace, now: float, *, height: int, log_lines: int = LOG_LINES, is_final: bool = False
) -> list[Row]:
    """The rows to show on a terminal of `height` rows; all there are when `is_final`."""
    done, total = trace.counts()
    elapsed = now - trace.first if trace.first is not None else 0.0
    state = ""
    if is_final:
        # Steps that were announced and turned out not to be needed stay open; that is no failure.
        state = " FINISHED"
        if any(step.error or step.is_running for step in trace.started):
            state = " FAILED" if trace.failures() else " CANCELED"
    rows = [Row(f"[+] Building {elapsed:.1f}s ({done}/{total}){state}")]
    # One row for the header, one for the cursor.
    budget = max(height - 2, 3)
    everything = {step.digest: _rows(step, now) for step in trace.started}
    count = sum(len(each) for each in everything.values())
    if is_final or count <= budget:
        spare = 0 if is_final else budget - count
        shown = set(everything)
    else:
        everything, shown, spare = _choose(trace, now, budget)
        rows.append(Row(f" => {_left_out(trace, shown)}", style="log"))
    share = _log_share(trace, shown, spare, log_lines)
    for step in trace.started:
        if step.digest not in shown:
            continue
        rows += everything[step.digest]
        if step.is_running:
            rows += [
                Row(f" => => # {text}", style="log") for text in _output(step, share.get(step.digest, 0))
            ]
    return rows


def _choose(trace: Trace, now: float, budget: int) -> tuple[dict[str, list[Row]], set[str], int]:
    """When not all fits: one row for each step that runs or has failed, then the newest of the others; and
    how many rows are left for output."""
    budget -= 1  # the row that says what is not shown
    urgent = [step for step in trace.started if step.is_running or (step.error and not step.is_canceled)][
        -budget:
    ]
    spare = budget - len(urgent)
    talking = sum(step.is_running and bool(step.lines or step.partial) for step in urgent)
    others = [step for step in trace.started if step not in urgent]
    others.sort(key=lambda step: step.completed or 0.0)
    room = max(spare - max(talking, spare // 2 if talking else 0), 0)
    kept = others[-room:] if room else []
    rows = {step.digest: [_main_row(step, now)] for step in (*urgent, *kept)}
    return rows, set(rows), spare - len(kept)


def _left_out(trace: Trace, shown: set[str]) -> str:
    hidden = [step for step in trace.started if step.digest not in shown]
    running = sum(step.is_running for step in hidden)
    parts = [f"{len(hidden) - running} done"] if len(hidden) > running else []
    parts += [f"{running} running"] if running else []
    waiting = len(trace.steps) - len(trace.started)
    parts += [f"{waiting} to come"] if waiting else []
    return f"... {', '.join(parts)} (not shown)" if parts else "..."


def _log_share(trace: Trace, shown: set[str], spare: int, log_lines: int) -> dict[str, int]:
    """How many lines of output each running step may show: as even as can be."""
    talking = [
        step
        for step in trace.started
        if step.is_running and step.digest in shown and (step.lines or step.partial)
    ]
    share = dict.fromkeys((step.digest for step in talking), 0)
    wanted = {step.digest: min(log_lines, len(step.lines) + bool(step.partial)) for step in talking}
    while spare > 0 and any(share[digest] < wanted[digest] for digest in share):
        for digest in share:
            if spare > 0 and share[digest] < wanted[digest]:
                share[digest] += 1
                spare -= 1
    return share


def _output(step: Step, count: int) -> list[str]:
    lines = [line.partition(" ")[2] for line in step.lines[-count:]] if count else []
    if step.partial and count:
        lines.append(step.partial[step.partial.rstrip(b"\r").rfind(b"\r") + 1 :].decode("utf-8", "replace"))
    return [_printable(line) for line in lines[-count:]] if count else []


def _rows(step: Step, now: float) -> list[Row]:
    rows = [_main_row(step, now)]
    for name, status in step.statuses.items():
        end = (
            status.completed if status.completed is not None else now if step.is_running else status.timestamp
        )
        seconds = max(0.0, end - status.started) if status.started is not None else 0.0
        style = "run" if status.completed is not None else ""
        rows.append(Row(f" => => {name}{transferred(status)}", _seconds(seconds), style))
    rows += [Row(f"    WARN: {warning.short}", style="warning") for warning in step.warnings]
    return rows


def _main_row(step: Step, now: float) -> Row:
    if step.is_canceled:
        mark, style = "CANCELED ", "cancel"
    elif step.error:
        mark, style = "ERROR ", "error"
    elif step.cached:
        mark, style = "CACHED ", "run"
    else:
        mark, style = "", "" if step.is_running else "run"
    return Row(f" => {mark}{step.name}", _seconds(step.seconds(now)), style)


def _seconds(seconds: float) -> str:
    return f"{seconds if seconds >= 0.05 else 0:.1f}s"


def _printable(text: str) -> str:
    """Without control sequences and control characters; tabs are spaces."""
    return _UNPRINTABLE.sub("", text).replace("\t", "    ")


def _log_lines(environment: Mapping[str, str]) -> int:
    try:
        return max(int(environment.get("BUILDKIT_TTY_LOG_LINES", "")), 0)
    except ValueError:
        return LOG_LINES


def _terminal_size(stream: TextIO) -> tuple[int, int]:
    try:
        size = os.get_terminal_size(stream.fileno())
    except (OSError, ValueError):
        return 80, 24
    return max(size.columns, 20) if size.columns else 80, max(size.lines, 5) if size.lines else 24


def colors(environment: Mapping[str, str]) -> dict[str, str]:
    """The SGR codes by style; empty with NO_COLOR. `BUILDKIT_COLORS=run=green:error=255,0,0` changes them."""
    if environment.get("NO_COLOR"):
        return {}
    result = dict(_DEFAULT_COLORS)
    for entry in environment.get("BUILDKIT_COLORS", "").replace('"', "").split(":"):
        key, _, value = entry.strip().lower().partition("=")
        code = _color_code(value)
        if code and key in ("run", "cancel", "error", "warning"):
            result[key] = code
    return result


def _color_code(value: str) -> str:
    base = value.removeprefix("light-")
    if base in _COLORS:
        return str(_COLORS[base] + (60 if base != value else 0))
    if value == "default":
        return "39"
    parts = value.split(",")
    if len(parts) == 3 and all(part.isdigit() and int(part) < 256 for part in parts):
        return f"38;2;{';'.join(parts)}"
    return ""
