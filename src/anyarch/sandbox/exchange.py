"""One child of the supervisor, from its start to its end, as its parent sees it: what it reports, what it
writes, and how it is ended."""

from __future__ import annotations

import os
import select
import socket
import threading
from typing import TYPE_CHECKING

from anyarch.errors import Canceled, SandboxError
from anyarch.sandbox.gates import refusal
from anyarch.sandbox.plan import CancelToken
from anyarch.sandbox.reports import receive_step_report
from anyarch.sandbox.supervisor.report import send_frame

if TYPE_CHECKING:
    from collections.abc import Callable

    from anyarch.sandbox.executor import StepHandle
    from anyarch.sandbox.terminal import Relay

__all__ = ["GONE", "GONE_HINT", "Exchange"]

_CHUNK = 1 << 16
_KILL_TIMEOUT_S = 5.0
_EVENT_PERIOD_MS = 50  # how often a threading.Event is looked at
GONE, GONE_HINT = "the sandbox supervisor has ended", "it was killed; run the build again"


class Exchange:
    """One child, from its start to its end: its control socket and our ends of its output pipes."""

    def __init__(self, control: socket.socket, readers: list[int]) -> None:
        self._control = control
        self._readers = readers
        self._ended = False
        self.on_note: Callable[[str, str], None] | None = None
        self.handle: StepHandle | None = None
        self.on_listener: Callable[[socket.socket], None] | None = None

    def __enter__(self) -> Exchange:
        return self

    def __exit__(self, *exc: object) -> None:
        if not self._ended:
            # something here failed: the child must not work on behind the caller's back
            self._cancel()
            self._control.settimeout(_KILL_TIMEOUT_S)
            try:
                while self._control.recv(_CHUNK):
                    continue
            except OSError:
                self._ended = True  # it does not die, in the kernel; nothing more can be done from here
        self._control.close()
        for reader in self._readers:
            os.close(reader)

    def send(self, value: object) -> None:
        try:
            send_frame(self._control, value)
        except BrokenPipeError:
            return  # refused before it was read: the report says why

    def receive_terminal(self) -> int | None:
        """The terminal of the step; None when the next report (left for `finish`) is another one."""
        while True:
            report = receive_step_report(self._control, peek=True)
            match report:
                case ("note", text):
                    receive_step_report(self._control)
                    self._note("limit", text)
                case ("listener",):
                    receive_step_report(self._control)
                    self._receive_listener()
                case ("terminal",):
                    receive_step_report(self._control)
                    _, descriptors, _, _ = socket.recv_fds(self._control, 1, 1, socket.MSG_CMSG_CLOEXEC)
                    return descriptors[0] if descriptors else None
                case _:
                    return None

    def finish(
        self,
        on_output: Callable[[int, bytes], None],
        cancel: threading.Event | CancelToken | None,
        relay: Relay | None = None,
    ) -> int:
        """Pass the output on until the child has ended, and return its code."""
        token = cancel if isinstance(cancel, CancelToken) else None
        if token is not None:
            token.add_callback(self._cancel)
        try:
            return self._finish(on_output, cancel, relay)
        finally:
            if token is not None:
                token.remove_callback(self._cancel)

    def _note(self, kind: str, text: str = "") -> None:
        if self.on_note is not None:
            self.on_note(kind, text)

    def _receive_listener(self) -> None:
        """Once: from then on whoever has the other end may be the step's."""
        take, self.on_listener = self.on_listener, None
        _, descriptors, _, _ = socket.recv_fds(self._control, 1, 1, socket.MSG_CMSG_CLOEXEC)
        for descriptor in descriptors:
            if take is None:
                os.close(descriptor)
            else:
                take(socket.socket(fileno=descriptor))

    def _cancel(self) -> None:
        try:
            self._control.shutdown(socket.SHUT_WR)
        except OSError:
            return  # it has ended

    def _finish(
        self,
        on_output: Callable[[int, bytes], None],
        cancel: threading.Event | CancelToken | None,
        relay: Relay | None,
    ) -> int:
        streams = {reader: number for number, reader in enumerate(self._readers, start=1)}
        control = self._control.fileno()
        poll = select.poll()
        for fd in (control, *streams):
            poll.register(fd, select.POLLIN)
        if relay is not None:
            relay.watch(poll)
        event = cancel if isinstance(cancel, threading.Event) else None
        period = _EVENT_PERIOD_MS if event is not None else (relay.period_ms if relay else None)
        error: SandboxError | None = None
        executed: tuple[bytes, bytes] = (b"", b"")
        while True:
            if event is not None and event.is_set():
                self._cancel()
                event, period = None, None
            for fd, _ in poll.poll(period):
                if fd == control:
                    report = receive_step_report(self._control)
                    match report:
                        case int():  # from the program that executes the step's
                            error = error or refusal("exec", executed[0], report, executed[1])
                        case ("refused", gate, subject, code, detail):
                            error = error or refusal(gate, subject, code, detail)
                        case ("exec", path, head):
                            executed = path, head
                        case ("started",):
                            if self.handle is not None:
                                self.handle._has_started()
                        case ("listener",):
                            self._receive_listener()
                        case ("note", text):
                            self._note("limit", text)
                        case ("out of memory",):
                            self._note("out of memory")
                        case None | ("ended", _):
                            self._ended = True
                            for reader, number in streams.items():
                                _drain(reader, number, on_output)
                            if relay is not None:
                                relay.drain()
                            return _result(None if report is None else report[1], error, cancel)
                        case _:
                            raise SandboxError(f"a step's process reported {report[0]!r} out of turn")
                    continue
                number = streams.get(fd, 0)
                if number:
                    data = os.read(fd, _CHUNK)
                    if data:
                        on_output(number, data)
                    else:
                        poll.unregister(fd)
                        del streams[fd]
                elif relay is not None:
                    relay.ready(fd, poll)
            if relay is not None:
                relay.resize()


def _result(code: int | None, error: SandboxError | None, cancel: object) -> int:
    """`code` is None where nobody told it."""
    cancelled = (cancel.is_set() if isinstance(cancel, threading.Event) else False) or (
        isinstance(cancel, CancelToken) and cancel.cancelled
    )
    if cancelled and (code is None or code == 128 + 9):
        raise Canceled("the step was cancelled")
    if error is not None:
        raise error
    if code is None:
        raise SandboxError(GONE, hint=GONE_HINT)
    return code


def _drain(reader: int, number: int, on_output: Callable[[int, bytes], None]) -> None:
    """What is left in a pipe after all its writers were killed."""
    os.set_blocking(reader, False)
    while True:
        try:
            data = os.read(reader, _CHUNK)
        except BlockingIOError:
            return  # somebody outside the sandbox has got hold of the other end
        if not data:
            return
        on_output(number, data)
