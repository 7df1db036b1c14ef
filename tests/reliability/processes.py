"""Processes of a test: start the command line, adopt whatever outlives it, look for what is left.

Nothing is found by name. This process is made the subreaper of its descendants (prctl(2)), so a process whose
parent was killed becomes our child, and all that is left of a build is below us in the tree of processes.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["Family", "family", "leftovers", "mounts_below"]

_PR_SET_CHILD_SUBREAPER = 36
_PATIENCE_S = 20.0
"""How long a busy machine may take for what happens at once."""


class Family:
    """The processes that were started below this one since the family was founded."""

    def __init__(self) -> None:
        self._before = _descendants()
        self._started: list[subprocess.Popen[str]] = []

    def start(
        self, *arguments: str, environment: Mapping[str, str], **options: object
    ) -> subprocess.Popen[str]:
        """Start the command line; its outputs are pipes unless `options` (those of Popen) say otherwise."""
        given: dict[str, object] = {
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            "text": True,
            **options,
        }
        argv = [sys.executable, "-m", "anyarch", *arguments]
        process: subprocess.Popen[str] = subprocess.Popen(argv, env=dict(environment), **given)  # type: ignore[call-overload]
        self._started.append(process)
        return process

    def alive(self) -> dict[int, str]:
        """Those that still run, with their command lines; those that ended as our adopted children are
        reaped."""
        own = {process.pid for process in self._started if process.returncode is None}
        found = {}
        for pid in sorted(_descendants() - self._before - own):
            state = _state(pid)
            if state == "Z":
                _reap(pid)
            elif state:
                found[pid] = _command_line(pid)
        return found

    def children_of(self, pid: int) -> list[int]:
        """The direct children of a process."""
        return [child for child in _descendants() if _stat(child)[1:2] == [str(pid)]]

    def remaining(self) -> dict[int, str]:
        """What is still alive although it was given time to end."""
        deadline = time.monotonic() + _PATIENCE_S
        while (found := self.alive()) and time.monotonic() < deadline:
            time.sleep(0.005)
        return found

    def end(self) -> None:
        """Kill what is left, so that a failing test leaves nothing behind."""
        for process in self._started:
            if process.poll() is None:
                process.kill()
            process.communicate()
        for pid in self.alive():
            os.kill(pid, 9)
        self.remaining()


@contextmanager
def family() -> Iterator[Family]:
    """A family that ends with the block. Its processes can be asked to stop, also below `nohup` and in the
    background of a shell, which have signals ignored for all that they start."""
    ignored = [one for one in (signal.SIGINT, signal.SIGHUP) if signal.getsignal(one) == signal.SIG_IGN]
    for one in ignored:
        signal.signal(one, signal.SIG_DFL)
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    found = Family()
    try:
        yield found
    finally:
        found.end()
        libc.prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
        for one in ignored:
            signal.signal(one, signal.SIG_IGN)


def mounts_below(directory: Path) -> list[str]:
    """Mounts at or of anything below a directory, in this mount namespace."""
    return [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(directory) in line]


def leftovers(store: Path) -> list[str]:
    """Unfinished things in a store that no process has open."""
    return [f"{place}/{name}" for place in ("work", "ingest", "locks") for name in os.listdir(store / place)]


def _descendants() -> set[int]:
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            fields = _stat(int(name))
            if len(fields) > 1:
                children.setdefault(int(fields[1]), []).append(int(name))
    found: set[int] = set()
    waiting = [os.getpid()]
    while waiting:
        for child in children.get(waiting.pop(), ()):
            found.add(child)
            waiting.append(child)
    return found


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat after the name; none when the process is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return []


def _state(pid: int) -> str:
    return (_stat(pid) or [""])[0]


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")[:200]
    except OSError:
        return "?"


def _reap(pid: int) -> None:
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return  # a child of another one of us, who will reap it
