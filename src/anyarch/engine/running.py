"""Running what takes long, so that it can be stopped from outside."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from anyarch.engine.failure import os_errors
from anyarch.errors import Canceled

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from anyarch.engine.request import CancelToken
    from anyarch.solver.events import Event, EventSink

__all__ = ["canceled_by", "run_async"]

T = TypeVar("T")


async def run_async(
    work: Callable[[EventSink], Awaitable[T]], on_event: EventSink | None, cancel: CancelToken | None
) -> T:
    """Do `work` so that `cancel` ends it, and what the machine refuses is told as such."""
    with canceled_by(cancel), os_errors():
        return await work(on_event or _ignore)


@contextmanager
def canceled_by(cancel: CancelToken | None) -> Iterator[None]:
    """What the current task waits for inside ends when `cancel` is set. Raises `Canceled` then."""
    task = asyncio.current_task()
    loop = asyncio.get_running_loop()
    assert task is not None
    if cancel is not None:
        cancel.add_callback(lambda: loop.call_soon_threadsafe(task.cancel))
    try:
        yield
    except asyncio.CancelledError:
        if cancel is not None and cancel.is_set():
            raise Canceled("context canceled") from None
        raise


def _ignore(event: Event) -> None:
    """Nobody watches."""
