"""A step's terminal joined to ours: bytes both ways, raw mode and window size (`anyarch run -it`)."""

from __future__ import annotations

import fcntl
import os
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

    @property
    def descriptors(self) -> tuple[int, ...]:
        """Those to wait for; `ready` is to be called for each that is readable."""
        return (self._master,) if self._source is None else (self._master, self._source)

    def __enter__(self) -> Relay:
        if self._source is not None and os.isatty(self._source):
            self._saved = termios.tcgetattr(self._source)
            tty.setraw(self._source)
        self.resize()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._saved is not None and self._source is not None:
            termios.tcsetattr(self._source, termios.TCSADRAIN, self._saved)
        os.close(self._master)

    def ready(self, fd: int) -> bool:
        """Copy what `fd` has. False when it has come to its end."""
        if fd == self._master:
            return self._from_step()
        data = os.read(fd, _CHUNK)
        _write(self._master, data or b"\x04")  # the end of a file is ^D to a terminal
        return bool(data)

    def drain(self) -> None:
        """What the step wrote before it ended."""
        os.set_blocking(self._master, False)
        while self._from_step():
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
        try:
            data = os.read(self._master, _CHUNK)
        except OSError:
            return False  # EIO once the other side is closed for good, EAGAIN when drained
        if data and self._sink is not None:
            _write(self._sink, data)
        elif data:
            self._on_output(1, data)
        return bool(data)


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
