"""Cancellation of work in threads: whoever waits looks at a flag in short steps."""

from __future__ import annotations

import time
from typing import Protocol

from anyarch.errors import Canceled

__all__ = ["STEP_S", "Cancel", "check", "pause"]

STEP_S = 0.25
"""How long a wait may be blind to the flag, in seconds."""


class Cancel(Protocol):
    """What says that work is to stop: `threading.Event`, the engine's `CancelToken`."""

    def is_set(self) -> bool: ...


def check(cancel: Cancel | None) -> None:
    """Raises `Canceled` once the flag is set."""
    if cancel is not None and cancel.is_set():
        raise Canceled("canceled")


def pause(seconds: float, cancel: Cancel | None) -> None:
    """Sleep; raises `Canceled` within `STEP_S` of the flag being set."""
    end = time.monotonic() + seconds
    check(cancel)
    while (left := end - time.monotonic()) > 0:
        time.sleep(min(left, STEP_S))
        check(cancel)
