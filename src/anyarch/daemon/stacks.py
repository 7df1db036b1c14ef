"""Where everything is just now, for whoever looks into a daemon that does not go on: SIGUSR1 writes it to the
log (`--debug`)."""

from __future__ import annotations

import asyncio
import io
import sys
import threading
import traceback
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["stacks"]


def stacks(loops: Iterable[asyncio.AbstractEventLoop]) -> str:
    """The stacks of all threads, and of the tasks of `loops`."""
    out = io.StringIO()
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    for identity, frame in sys._current_frames().items():
        out.write(f"thread {names.get(identity, identity)}\n")
        out.write("".join(traceback.format_stack(frame)))
    for loop in loops:
        for task in asyncio.all_tasks(loop):
            task.print_stack(file=out)
    return out.getvalue()
