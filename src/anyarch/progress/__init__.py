"""Renderers of the solver's event stream: plain, tty, rawjson; quiet and none show nothing.

`open_display` gives a `Display`, whose `sink` takes events from any thread. What a display has seen
(warnings, failed steps with their last output) stays in its `trace` for whoever writes the end of the
story. Modes are imported when they are chosen.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, TextIO

from anyarch.errors import UsageError
from anyarch.progress.display import Display

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["MODES", "choose_mode", "open_display"]

MODES = ("auto", "none", "plain", "quiet", "rawjson", "tty")


def choose_mode(wanted: str, stream: TextIO, environment: Mapping[str, str]) -> str:
    """The mode for `wanted` on `stream`: `auto` is tty on a terminal that can move its cursor, else plain.

    Raises `UsageError` for an unknown mode, and for tty where there is no terminal.
    """
    if wanted not in MODES:
        raise UsageError(f"invalid progress mode {wanted}", hint=f"it is one of {', '.join(MODES)}")
    if wanted == "auto":
        can_move = _is_terminal(stream) and environment.get("TERM") not in (None, "", "dumb")
        return "tty" if can_move else "plain"
    if wanted == "tty" and not _is_terminal(stream):
        raise UsageError(
            "failed to get console: the error stream is not a terminal",
            hint="use --progress=plain, or leave it at auto",
        )
    return wanted


def open_display(
    mode: str,
    stream: TextIO,
    environment: Mapping[str, str] | None = None,
    *,
    builder: tuple[str, str] | None = None,
) -> Display:
    """A started display in `mode` (as `choose_mode` gives it); the caller closes it. `builder` are name and
    driver of the builder, where they are to be said."""
    environment = os.environ if environment is None else environment
    if mode == "plain":
        from anyarch.progress.plain import PlainRenderer

        heading = f'building with "{builder[0]}" instance using {builder[1]} driver' if builder else ""
        return Display(PlainRenderer(stream, heading)).start()
    if mode == "rawjson":
        from anyarch.progress.rawjson import RawJSONRenderer

        return Display(RawJSONRenderer(stream)).start()
    if mode == "tty":
        from anyarch.progress.tty import TTYRenderer

        renderer = TTYRenderer(
            stream, environment, tick_s=_rate_s(environment), label=":".join(reversed(builder or ()))
        )
        return Display(renderer, tick_s=renderer.tick_s, kept_lines=max(10, renderer.log_lines)).start()
    return Display(None).start()


def _rate_s(environment: Mapping[str, str]) -> float:
    try:
        return max(int(environment.get("TTY_DISPLAY_RATE", "")), 10) / 1000
    except ValueError:
        return 0.1


def _is_terminal(stream: TextIO) -> bool:
    try:
        return stream.isatty()
    except ValueError:  # closed
        return False
