"""The course of a command that moves images: its progress display, and how it is stopped."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from anyarch.cli.flags import Parsed
    from anyarch.engine.request import CancelToken
    from anyarch.registry.client import Registry
    from anyarch.solver.events import EventSink

__all__ = ["connecting", "transferring"]


@contextmanager
def transferring(parsed: Parsed, *, quiet: bool = False) -> Iterator[tuple[EventSink, CancelToken]]:
    """Where events go, by `--progress`, and what says that Ctrl-C was pressed. Raises `UsageError`."""
    from anyarch.cli.dispatch import stderr
    from anyarch.cli.signals import stopping
    from anyarch.engine.request import CancelToken
    from anyarch.progress import choose_mode, open_display

    wanted = "quiet" if quiet else parsed.text("progress") or os.environ.get("BUILDKIT_PROGRESS") or "auto"
    mode = choose_mode("quiet" if wanted == "none" else wanted, stderr(), os.environ)
    cancel = CancelToken()
    display = open_display(mode, stderr())
    try:
        with stopping(cancel, notice=mode == "plain"), display:
            yield display.sink, cancel
    finally:
        display.close()


def connecting(emit: EventSink) -> Callable[[], Registry]:
    """Makes registry clients that tell in the display when they wait to try again."""

    def told(text: str) -> None:
        import time

        from anyarch.solver.events import VertexEvent
        from anyarch.spec.digest import Digest

        now = time.time()
        name = f"[waiting] {text}"
        emit(VertexEvent(Digest.of(f"{name} {now}".encode()), name, started=now, completed=now))

    def connect() -> Registry:
        from anyarch.imagetools.origin import make_registry

        return make_registry(told)

    return connect
