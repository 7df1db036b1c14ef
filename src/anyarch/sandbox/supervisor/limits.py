"""How many processes a step may have, so that a fork bomb ends the step and not the machine.

A pid namespace has a `pid_max` of its own since Linux 6.14: nothing has to be made or taken away, for
ordinary users as for root. On older kernels root uses a cgroup, of version 1 or 2, whichever has the pids
controller. Where there is neither, a step is as free as the user who builds.
"""

from __future__ import annotations

import os

_PID_MAX = "/proc/sys/kernel/pid_max"
_FIRST_KERNEL = (6, 14)
_LEAST = 301  # the kernel accepts no less
_CGROUPS = ("/sys/fs/cgroup/pids", "/sys/fs/cgroup")  # version 1 (or hybrid), version 2
_PREFIX = "anyarch-"


def limit_processes(most: int) -> str:
    """Bound the processes of this pid namespace, of which the caller is the first. Returns by what: pid_max,
    a cgroup's path, or an empty text."""
    if has_own_pid_max() and _write(_PID_MAX, max(most, _LEAST)):
        return "pid_max"
    return join_cgroup(most)


def has_own_pid_max() -> bool:
    """By version alone: on an older kernel the very same write changes the whole machine."""
    major, _, rest = os.uname().release.partition(".")
    minor = rest[: len(rest) - len(rest.lstrip("0123456789"))]
    return major.isdecimal() and minor.isdecimal() and (int(major), int(minor)) >= _FIRST_KERNEL


def join_cgroup(most: int) -> str:
    """Put this process into a new cgroup of `most` processes."""
    for parent in _parents():
        for _ in range(3):  # another build may clear an empty one away before it is joined
            path = f"{parent}/{_PREFIX}{os.urandom(8).hex()}"
            try:
                os.mkdir(path, 0o755)
            except OSError:
                break
            if _write(f"{path}/pids.max", most) and _write(f"{path}/cgroup.procs", 0):
                return path
            try:
                os.rmdir(path)
            except OSError:
                continue
    return ""


def clear_cgroups() -> None:
    """Remove the cgroups of steps that have ended; those in use refuse."""
    if has_own_pid_max():
        return
    for parent in _parents():
        for name in os.listdir(parent):
            if name.startswith(_PREFIX):
                try:
                    os.rmdir(f"{parent}/{name}")
                except OSError:
                    continue  # a step is in it, or it is another user's


def _parents() -> list[str]:
    """Directories in which a cgroup with the pids controller can be made."""
    found = []
    for path in _CGROUPS:
        try:
            with open(f"{path}/cgroup.subtree_control") as file:  # version 2
                usable = "pids" in file.read().split()
        except OSError:
            usable = path.endswith("/pids") and os.path.exists(f"{path}/cgroup.procs")
        if usable and os.access(path, os.W_OK):
            found.append(path)
    return found


def _write(path: str, number: int) -> bool:
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, b"%d\n" % number)
        finally:
            os.close(fd)
    except OSError:
        return False
    return True
