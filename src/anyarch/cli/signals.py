"""Ctrl-C and SIGTERM: the first asks the work to stop and clean up, the second ends the process at once."""

from __future__ import annotations

import os
import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

    from anyarch.engine.request import CancelToken

__all__ = ["stopping"]

_NOTICE = b"\nstopping; once more to stop at once\n"


@contextmanager
def stopping(cancel: CancelToken, *, notice: bool = True) -> Iterator[None]:
    """Set `cancel` on SIGINT, SIGTERM or SIGHUP while the block runs.

    Ending at once is safe: what runs in sandboxes dies with this process, and the store is consistent at
    any moment. In a thread other than the main one, where Python allows no handlers, nothing is changed.
    """

    def stop(number: int, _: FrameType | None) -> None:
        if cancel.is_set():
            os._exit(128 + number)
        if notice and number == signal.SIGINT:
            # Not through sys.stderr: the interrupted code may be inside its lock.
            try:
                os.write(2, _NOTICE)
            except OSError:
                cancel.set()
                return
        cancel.set()

    before = {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if (
                signal.getsignal(number) is not signal.SIG_IGN
            ):  # nohup, or a job in the background of a script
                before[number] = signal.signal(number, stop)
    except ValueError:
        before = {}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
