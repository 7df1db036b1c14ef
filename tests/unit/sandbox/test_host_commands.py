"""Host programs run with the ids of the steps, and steps on a terminal."""

from __future__ import annotations

import os
import select
import threading
from typing import TYPE_CHECKING

import pytest

from anyarch.errors import SandboxError

if TYPE_CHECKING:
    from .conftest import Steps

pytestmark = pytest.mark.root


def test_command_gets_its_input_and_returns_its_output(steps: Steps) -> None:
    data = os.urandom(1 << 20)

    assert steps.executor.run_in_userns(["/bin/busybox", "cat"], data) == data


def test_command_that_ignores_its_input_does_not_hang(steps: Steps) -> None:
    assert steps.executor.run_in_userns(["/bin/busybox", "echo", "x"], bytes(1 << 20)) == b"x\n"


def test_command_is_root_of_the_namespace(steps: Steps) -> None:
    assert steps.executor.run_in_userns(["/bin/busybox", "id", "-u"]) == b"0\n"


def test_command_has_the_environment_asked_for(steps: Steps) -> None:
    assert steps.executor.run_in_userns(["/bin/busybox", "env"], env=["A=b"]) == b"A=b\n"
    assert b"PATH=" in steps.executor.run_in_userns(["/bin/busybox", "env"])


def test_failing_command_raises_with_what_it_said(steps: Steps) -> None:
    with pytest.raises(SandboxError, match=r"status 1: .*nowhere"):
        steps.executor.run_in_userns(["/bin/busybox", "ls", "/nowhere"])
    with pytest.raises(SandboxError, match="exec /nowhere: no such file"):
        steps.executor.run_in_userns(["/nowhere"])


def test_step_with_a_terminal_has_one_of_its_own(steps: Steps) -> None:
    script = "test -t 0 && test -t 1 && test -t 2 && tty; ls /dev/pts /dev/console; exit 4"

    assert steps.run("sh", "-c", script, tty=True) == 4
    assert steps.out.split() == [b"/dev/pts/0", b"/dev/console", b"/dev/pts:", b"0", b"ptmx"]


def test_terminal_passes_input_and_interrupts(steps: Steps) -> None:
    """Through a pseudo-terminal of ours, as a person would type."""
    master, slave = os.openpty()
    seen = bytearray()

    def type_in() -> None:
        os.write(master, b"hello\r")
        _read_until(master, seen, b"<hello>")
        os.write(master, b"\x03")  # ^C
        _read_until(master, seen, b"interrupted")

    typist = threading.Thread(target=type_in)
    typist.start()
    script = (
        "trap 'echo interrupted; exit 9' INT; read line; echo \"<$line>\"; while true; do sleep 0.05; done"
    )
    try:
        code = steps.executor.run(
            steps.request("sh", "-c", script, tty=True),
            on_output=lambda _stream, _data: pytest.fail("nothing should come this way"),
            stdio=(slave, slave, slave),
        )
        typist.join()
    finally:
        os.close(master)
        os.close(slave)

    assert code == 9


def _read_until(fd: int, seen: bytearray, wanted: bytes) -> None:
    while wanted not in seen:
        ready, _, _ = select.select([fd], [], [], 20)
        if not ready:
            return
        seen += os.read(fd, 4096)


def test_terminal_takes_more_input_than_it_can_hold(steps: Steps) -> None:
    read_end, write_end = os.pipe()
    lines = b"".join(b"%05d\n" % number for number in range(5000))
    writer = threading.Thread(target=lambda: (os.write(write_end, lines), os.close(write_end)))
    writer.start()
    script = "stty -echo; cat | wc -l"
    streams = bytearray()

    code = steps.executor.run(
        steps.request("sh", "-c", script, tty=True, stdin=read_end),
        on_output=lambda _stream, data: streams.extend(data),
    )
    writer.join()
    os.close(read_end)

    assert code == 0
    assert bytes(streams).endswith(b"5000\r\n")
