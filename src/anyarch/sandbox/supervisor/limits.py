"""How many processes a step may have, so that a fork bomb ends the step and not the machine.

A pid namespace has a `pid_max` of its own since Linux 6.14: nothing has to be made or taken away, for
ordinary users as for root. On older kernels a control group does it, where there is one (`.cgroups`); where
there is neither, a step is as free as the user who builds.
"""

from __future__ import annotations

import os

_PID_MAX = "/proc/sys/kernel/pid_max"
_FIRST_KERNEL = (6, 14)
_LEAST = 301  # the kernel accepts no less


def limit_processes(most: int) -> bool:
    """Bound the processes of this pid namespace, of which the caller is the first."""
    if not has_own_pid_max():
        return False
    try:
        fd = os.open(_PID_MAX, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, b"%d\n" % max(most, _LEAST))
        finally:
            os.close(fd)
    except OSError:
        return False
    return True


def has_own_pid_max() -> bool:
    """By version alone: on an older kernel the very same write changes the whole machine."""
    major, _, rest = os.uname().release.partition(".")
    minor = rest[: len(rest) - len(rest.lstrip("0123456789"))]
    return major.isdecimal() and minor.isdecimal() and (int(major), int(minor)) >= _FIRST_KERNEL
