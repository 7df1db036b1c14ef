"""The bound on a step's processes where the kernel has no pid_max a namespace: a cgroup."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from anyarch.sandbox.supervisor import limits

if TYPE_CHECKING:
    from tests.unit.sandbox.conftest import Steps

SUPERVISOR = Path(limits.__file__).parent


@pytest.mark.parametrize(
    ("release", "has"),
    [("6.14.0", True), ("7.0-rc1", True), ("6.13.12-amd64", False), ("5.10", False), ("odd", False)],
)
def test_pid_max_is_written_only_where_it_belongs_to_the_namespace(
    release: str, has: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.uname", lambda: os.uname_result(("Linux", "h", release, "v", "x86_64")))
    assert limits.has_own_pid_max() is has


@pytest.mark.root
def test_cgroup_bounds_processes_and_is_cleared_when_they_have_ended() -> None:
    """In a process of its own, which the cgroup holds."""
    if not limits._parents():
        pytest.skip("this machine offers no cgroup with the pids controller")
    code = (
        "import os, sys; sys.path.insert(0, sys.argv[1]); import limits\n"
        "limits.has_own_pid_max = lambda: False\n"
        "path = limits.join_cgroup(5); print(path)\n"
        "made = 0\n"
        "try:\n"
        "    for _ in range(20):\n"
        "        if os.fork() == 0: os.pause() if hasattr(os, 'pause') else __import__('signal').pause()\n"
        "        made += 1\n"
        "except OSError as error: print(made, error.errno)\n"
        "os.killpg(0, 9)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(SUPERVISOR)], capture_output=True, text=True, start_new_session=True
    )
    path, made, code_ = done.stdout.split()
    assert (made, code_) == ("4", "11")  # EAGAIN
    deadline = 100
    while os.path.exists(path) and deadline:
        for parent in limits._parents():
            for name in os.listdir(parent):
                if name == os.path.basename(path):
                    try:
                        os.rmdir(path)
                    except OSError:
                        deadline -= 1
    assert not os.path.exists(path)


def test_without_a_cgroup_nothing_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "_CGROUPS", ("/nowhere",))
    assert limits.join_cgroup(5) == ""
    limits.clear_cgroups()


@pytest.mark.root
@pytest.mark.skipif(not limits.has_own_pid_max(), reason="before Linux 6.14 there is one pid_max for all")
def test_step_of_root_and_of_an_ordinary_user_has_a_bound_of_its_own(steps: Steps) -> None:
    assert steps.run("cat", "/proc/sys/kernel/pid_max", pids=400) == 0
    assert steps.out == b"400\n"

    # Not the machine's: a new pid namespace begins with the kernel's own maximum.
    assert steps.run("cat", "/proc/sys/kernel/pid_max", pids=0) == 0
    unbounded = steps.out.decode()
    fresh = ["unshare", "--fork", "--pid", "--mount-proc", "cat", "/proc/sys/kernel/pid_max"]
    assert unbounded == subprocess.run(fresh, capture_output=True, text=True, check=True).stdout
