"""Ctrl-C and SIGTERM: the build ends at once and leaves nothing, finished work stays."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING

import pytest

from anyarch.store.store import Store
from tests.reliability.processes import leftovers, mounts_below

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from pathlib import Path

    from tests.conftest import Bases
    from tests.reliability.processes import Family

pytestmark = [pytest.mark.root, pytest.mark.registry]

LONG_S = 900
"""Longer than the test may take: what sleeps so long and is gone was ended."""
CANCELED = 130

STEPS = f"""
FROM busybox
RUN echo finished > /before
RUN trap '' INT TERM HUP; (sleep {LONG_S} &) ; sleep {LONG_S} & echo sleep''ing; wait; sleep {LONG_S}
"""


def read_until(process: subprocess.Popen[str], text: str, times: int = 1) -> str:
    """What the process writes to its error stream until a line has `text` for the n-th time."""
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        times -= text in line
        if times == 0:
            return "".join(lines)
    raise AssertionError(f"it never wrote {text}:\n{''.join(lines)}")


def start(
    processes: Family, bases: Bases, tmp_path: Path, dockerfile: str, *arguments: str
) -> subprocess.Popen[str]:
    context = tmp_path / "context"
    context.mkdir(exist_ok=True)
    (context / "Dockerfile").write_text(dockerfile)
    return processes.start(
        *("build", "--progress", "plain", *arguments, str(context)),
        environment={**bases.environment, "ANYARCH_ROOT": str(tmp_path / "store")},
        start_new_session=True,  # the group of a job in a terminal
    )


def interrupt(process: subprocess.Popen[str], send: Callable[[int], None]) -> str:
    """Send it, wait for the end, and return what the process still had to say."""
    sent = time.monotonic()
    send(process.pid)
    _, errors = process.communicate(timeout=60)
    print(f"ended after {time.monotonic() - sent:.3f} s:\n{errors}")
    assert "Traceback" not in errors
    return errors


def check_clean(processes: Family, store: Path, tmp_path: Path) -> None:
    assert processes.remaining() == {}
    assert mounts_below(tmp_path) == []
    assert leftovers(store) == []
    with Store.open(store) as opened:
        assert opened.verify() == []


@pytest.mark.emulation
@pytest.mark.parametrize("platform", ["linux/amd64", "linux/arm64", "linux/amd64,linux/arm64"])
@pytest.mark.parametrize(
    "send",
    [
        pytest.param(lambda pid: os.kill(pid, signal.SIGINT), id="process"),
        pytest.param(lambda pid: os.killpg(pid, signal.SIGINT), id="terminal"),
    ],
)
def test_ctrl_c_ends_a_step_and_all_its_processes(
    bases: Bases,
    processes: Family,
    tmp_path: Path,
    platform: str,
    send: Callable[[int], None],
) -> None:
    process = start(processes, bases, tmp_path, STEPS, "--platform", platform)
    read_until(process, " sleeping", times=platform.count("linux"))
    errors = interrupt(process, send)
    assert process.returncode == CANCELED, errors
    assert errors.endswith("ERROR: failed to build: failed to solve: Canceled: context canceled\n")
    check_clean(processes, tmp_path / "store", tmp_path)
    again = start(processes, bases, tmp_path, STEPS.replace("RUN trap", "RUN true #"), "--platform", platform)
    _, errors = again.communicate(timeout=120)
    assert again.returncode == 0, errors
    assert errors.count(" CACHED\n") >= platform.count("linux")  # `RUN echo finished` of each platform


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_other_ways_to_be_asked_to_stop(
    bases: Bases,
    processes: Family,
    tmp_path: Path,
    number: signal.Signals,
) -> None:
    process = start(processes, bases, tmp_path, STEPS)
    read_until(process, " sleeping")
    errors = interrupt(process, lambda pid: os.kill(pid, number))
    assert process.returncode == CANCELED, errors
    check_clean(processes, tmp_path / "store", tmp_path)


def test_a_second_ctrl_c_ends_at_once_and_leaves_no_process(
    bases: Bases, processes: Family, tmp_path: Path
) -> None:
    process = start(processes, bases, tmp_path, STEPS)
    read_until(process, " sleeping")
    process.send_signal(signal.SIGSTOP)  # so that both arrive before it can act on the first
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGCONT)
    process.communicate(timeout=60)
    assert process.returncode in (128 + signal.SIGTERM, 128 + signal.SIGINT, CANCELED)
    assert processes.remaining() == {}
    assert mounts_below(tmp_path) == []


def test_a_killed_supervisor_is_an_error_and_leaves_no_process(
    bases: Bases, processes: Family, tmp_path: Path
) -> None:
    process = start(processes, bases, tmp_path, STEPS)
    read_until(process, " sleeping")
    (launcher,) = processes.children_of(process.pid)
    (supervisor,) = processes.children_of(launcher)
    os.kill(supervisor, signal.SIGKILL)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1, errors
    assert "ERROR: failed to build: failed to solve: process " in errors
    assert "did not complete successfully: the sandbox supervisor has ended\n" in errors
    check_clean(processes, tmp_path / "store", tmp_path)


@pytest.mark.parametrize(
    ("dockerfile", "arguments", "line"),
    [
        pytest.param("FROM busybox\nCOPY . /\n", (), "load build context", id="copying"),
        pytest.param(
            "FROM scratch\nCOPY . /\n", ("--output", "type=oci,dest=out.tar"), "exporting", id="exporting"
        ),
        pytest.param(
            "FROM busybox\nRUN cat /dev/urandom | head -c 300m > /f; echo do''ne\n", (), "done", id="scanning"
        ),
    ],
)
def test_ctrl_c_while_no_step_runs(
    bases: Bases,
    processes: Family,
    tmp_path: Path,
    dockerfile: str,
    arguments: tuple[str, ...],
    line: str,
) -> None:
    (tmp_path / "context").mkdir()
    with (tmp_path / "context" / "big").open("wb") as big:
        for _ in range(300):
            big.write(os.urandom(1 << 20))
    process = start(processes, bases, tmp_path, dockerfile, *arguments)
    read_until(process, line)
    errors = interrupt(process, lambda pid: os.kill(pid, signal.SIGINT))
    assert process.returncode == CANCELED, errors
    check_clean(processes, tmp_path / "store", tmp_path)
