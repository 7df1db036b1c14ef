"""A step's terminal joined to ours: bytes both ways, raw mode and window size (`anyarch run -it`)."""

from __future__ import annotations

import fcntl
import os
import select
import struct
import termios
import tty
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Relay"]

_CHUNK = 1 << 16


class Relay:
    """Copies between the master side of a terminal (owned from here on) and the caller's descriptors.

    `source` may be None (no input), so may `sink` (the output goes to `on_output` as stream 1). When `source`
    is a terminal it is in raw mode until the end.
    """

    period_ms = 250  # how often the window size is looked at

    def __init__(
        self, master: int, source: int | None, sink: int | None, on_output: Callable[[int, bytes], None]
    ) -> None:
        self._master = master
        self._source = source
        self._sink = sink
        self._on_output = on_output
        self._size = b""
        self._saved: list[Any] | None = None
        self._pending = b""  # input that the step has not taken
        self._drained = False
        os.set_blocking(master, False)

    def watch(self, poll: select.poll) -> None:
        """Register what to wait for next; to be called again after `ready`."""
        poll.register(self._master, select.POLLIN | (select.POLLOUT if self._pending else 0))
        if self._source is not None:
            # more input only once the step has taken what there is, or both sides could wait for ever
            poll.register(self._source, 0 if self._pending else select.POLLIN)

    def __enter__(self) -> Relay:
        if self._source is not None and os.isatty(self._source):
            self._saved = termios.tcgetattr(self._source)
            tty.setraw(self._source, termios.TCSADRAIN)  # keep what was typed ahead
        self.resize()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._saved is not None and self._source is not None:
            termios.tcsetattr(self._source, termios.TCSADRAIN, self._saved)
        os.close(self._master)

    def ready(self, fd: int, poll: select.poll) -> None:
        """Copy what `fd` has or can take."""
        if fd == self._master:
            if self._pending:
                self._to_step()
            if not self._from_step():
                poll.unregister(fd)
                return
        elif fd == self._source:
            data = os.read(fd, _CHUNK)
            self._pending += data or b"\x04"  # the end of a file is ^D to a terminal
            self._to_step()
            if not data:
                poll.unregister(fd)
                self._source = None
        self.watch(poll)

    def drain(self) -> None:
        """What the step wrote before it ended."""
        while self._from_step() and not self._drained:
            continue

    def resize(self) -> None:
        """Give the step's terminal the size of ours."""
        for fd in (self._sink, self._source):
            if fd is None or not os.isatty(fd):
                continue
            size = fcntl.ioctl(fd, termios.TIOCGWINSZ, bytes(struct.calcsize("4H")))
            if size != self._size:
                self._size = size
                fcntl.ioctl(self._master, termios.TIOCSWINSZ, size)
            return

    def _from_step(self) -> bool:
        """False when the terminal was closed for good."""
        self._drained = False
        try:
            data = os.read(self._master, _CHUNK)
        except BlockingIOError:
            self._drained = True
            return True
        except OSError:
            return False  # EIO: nobody has the other side open
        if data and self._sink is not None:
            _write(self._sink, data)
        elif data:
            self._on_output(1, data)
        return bool(data)

    def _to_step(self) -> None:
        try:
            taken = os.write(self._master, self._pending)
        except BlockingIOError:
            return
        self._pending = self._pending[taken:]


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
