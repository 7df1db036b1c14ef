"""Further processes in the namespaces of a step, and what others do to a step while it runs."""

from __future__ import annotations

import os
import signal
import socket
import struct
import threading
from typing import TYPE_CHECKING

import pytest

from anyarch.errors import SandboxError
from anyarch.sandbox.executor import StepHandle
from anyarch.sandbox.reports import receive_report, receive_step_report
from anyarch.sandbox.supervisor.report import send_frame

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.unit.sandbox.conftest import Steps


class Background:
    """A step that runs in a thread, with a pipe as its standard input."""

    def __init__(self, steps: Steps, *argv: str, join: StepHandle | None = None, **fields: object) -> None:
        self.handle = StepHandle()
        self.out = bytearray()
        self.code: int | None = None
        self.error: SandboxError | None = None
        reader, self.stdin = os.pipe()

        def run() -> None:
            try:
                self.code = steps.executor.run(
                    steps.request(*argv, stdin=reader, **fields),
                    on_output=lambda _stream, data: self.out.extend(data),
                    handle=self.handle,
                    join=join,
                )
            except SandboxError as error:
                self.error = error
                print(error, error.hint)  # shown where a test fails for it

        self._thread = threading.Thread(target=run)
        self._thread.start()
        assert self.handle.started.wait(20)
        self._reader = reader

    def end(self) -> int | None:
        """Close its input and wait for it."""
        os.close(self.stdin)
        self._thread.join(20)
        assert not self._thread.is_alive()
        os.close(self._reader)
        return self.code


@pytest.mark.root
def test_joined_process_sees_the_same_files_processes_and_host(steps: Steps) -> None:
    first = Background(steps, "sh", "-c", "echo in > /tmp/file; read line; cat /tmp/other", hostname="one")
    second = Background(
        steps,
        "sh",
        "-c",
        "while [ ! -s /tmp/file ]; do :; done; cat /tmp/file; hostname; ps; echo out > /tmp/other",
        join=first.handle,
        hostname="other",
    )
    assert second.end() == 0
    text = second.out.decode()
    assert text.startswith("in\none\n")
    assert "sh -c echo in" in text
    assert first.end() == 0
    assert first.out == b"out\n"


@pytest.mark.root
def test_joined_process_has_no_more_rights_than_a_step(steps: Steps) -> None:
    first = Background(steps, "cat")
    status = ("sh", "-c", "grep -E '^(Cap|Seccomp:|NoNew)' /proc/self/status; ls /proc/self/fd")
    joined = Background(steps, *status, join=first.handle)
    alone = Background(steps, *status)
    assert joined.end() == alone.end() == 0
    assert joined.out == alone.out
    first.end()


@pytest.mark.root
def test_joined_process_ends_with_the_step(steps: Steps) -> None:
    first = Background(steps, "cat")
    second = Background(steps, "sleep", "600", join=first.handle)
    assert first.end() == 0
    assert second.end() == 128 + signal.SIGKILL


@pytest.mark.root
def test_the_end_of_the_builder_ends_a_step_that_processes_have_joined(steps: Steps) -> None:
    # The kernel lets a step's init go when the processes that joined it have been waited for, not before.
    first = Background(steps, "cat")
    joined = [Background(steps, "cat", join=first.handle) for _ in range(2)]
    closing = threading.Thread(target=steps.executor.close, daemon=True)
    closing.start()
    closing.join(20)
    assert not closing.is_alive()
    for one in (first, *joined):
        one.end()
        assert one.error is not None


@pytest.mark.root
def test_nothing_joins_a_step_that_has_ended(steps: Steps) -> None:
    first = Background(steps, "true")
    first.end()
    late = Background(steps, "true", join=first.handle)
    late.end()
    assert late.error is not None
    assert "join" in late.error.message


@pytest.mark.root
def test_program_that_cannot_start_is_told(steps: Steps) -> None:
    first = Background(steps, "cat")
    other = Background(steps, "nothing-here", join=first.handle)
    other.end()
    assert other.error is not None
    first.end()


@pytest.mark.root
@pytest.mark.parametrize("join", [False, True], ids=["first", "joined"])
def test_signals_arrive(steps: Steps, join: bool) -> None:
    first = Background(steps, "cat")
    script = "trap 'echo got; exit 7' USR1; echo ready; while :; do sleep 0.05; done"
    target = Background(steps, "sh", "-c", script, join=first.handle if join else None)
    _until(lambda: b"ready" in target.out)
    target.handle.signal(signal.SIGUSR1)
    assert target.end() == 7
    assert target.out == b"ready\ngot\n"
    target.handle.signal(signal.SIGUSR1)  # nobody is there any more
    first.end()


@pytest.mark.root
@pytest.mark.parametrize("join", [False, True], ids=["first", "joined"])
def test_terminal_has_the_size_that_was_told(steps: Steps, join: bool) -> None:
    first = Background(steps, "cat")
    script = "echo ready; read x; stty size"
    target = Background(steps, "sh", "-c", script, join=first.handle if join else None, tty=True)
    _until(lambda: b"ready" in target.out)
    target.handle.resize(17, 71)
    os.write(target.stdin, b"\n")
    _until(lambda: b"17 71" in target.out)
    assert target.end() == 0
    first.end()


def _until(true: Callable[[], bool]) -> None:
    waited = threading.Event()
    for _ in range(400):
        if true():
            return
        waited.wait(0.05)
    raise AssertionError("it did not happen in 20 s")


@pytest.mark.root
def test_no_process_of_a_step_gets_hold_of_what_becomes_another(steps: Steps) -> None:
    """Until it executes the step's program it is the machine's Python interpreter, with a socket to us."""
    look = "for exe in /proc/[0-9]*/exe; do readlink $exe; done"
    spy = Background(steps, "sh", "-c", f"while [ ! -e /tmp/end ]; do {look}; done; true")
    for _ in range(20):
        Background(steps, "true", join=spy.handle).end()
    Background(steps, "touch", "/tmp/end", join=spy.handle).end()  # the first one may be quicker to end it
    assert spy.end() == 0
    seen = {bytes(line) for line in spy.out.splitlines()}
    assert b"/bin/busybox" in seen
    assert seen <= {b"/bin/busybox", b"/memfd:anyarch-launch (deleted)"}


@pytest.mark.parametrize(
    "report",
    [
        b"\xff\xff\xff\xffi",  # a size that nothing of ours has
        struct.pack("=I", 1) + b"c",  # code
        struct.pack("=I", 5) + b"(\xff\xff\xff\x7f",  # more items than there are bytes
        struct.pack("=I", 400) + b"\x28\1\0\0\0" * 80,  # deeper than anything of ours
    ],
    ids=["size", "code", "items", "depth"],
)
def test_report_that_is_none_of_ours_is_not_read(report: bytes) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(report)
        theirs.close()
        with pytest.raises(SandboxError, match="report"):
            receive_report(ours)


@pytest.mark.parametrize("value", [2, -1, ("refused", "exec", b"/bin/x", 13, b"\x7fELF"), ("ended", 0), None])
def test_report_is_what_was_sent(value: object) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        send_frame(theirs, value)
        assert receive_report(ours, peek=True) == value
        assert receive_report(ours) == value


@pytest.mark.parametrize(
    "value",
    [
        (),
        "ended",
        ("ended",),
        ("ended", "0"),
        ("ended", True),
        ("refused", "exec"),
        ("exec", b"/x"),
        ("note", b"x"),
        ("listener", 1),
        (1, 2),
        ("unheard of",),
    ],
    ids=str,
)
def test_report_of_another_form_is_nobodys(value: object) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        send_frame(theirs, value)
        with pytest.raises(SandboxError, match="none of ours"):
            receive_step_report(ours)


def test_report_that_is_cut_off_is_the_end_of_all() -> None:
    ours, theirs = socket.socketpair()
    with ours:
        theirs.sendall(struct.pack("=I", 5) + b"i\2\0\0")
        theirs.close()
        assert receive_report(ours) is None
