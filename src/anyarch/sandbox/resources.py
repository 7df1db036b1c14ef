"""The limits of a step (memory, CPU, processes) as what is written into the files of a control group.

Pure. Each limit has a form for control groups of version 1 and one for version 2; which one a machine has is
found out by `anyarch.sandbox.supervisor.cgroups`. The forms are those of the OCI runtime specification
(config-linux.md, "Control groups") and of runc.
"""

from __future__ import annotations

import posixpath
from typing import TYPE_CHECKING

from anyarch.errors import SandboxError

if TYPE_CHECKING:
    from anyarch.sandbox.plan import Resources

__all__ = ["Setting", "cgroup_directory", "settings_of"]

# what it is called, controller, file and value for version 1, file and value for version 2
Setting = tuple[str, str, str, str, str, str]

_DEFAULT_PERIOD_US = 100_000


def settings_of(resources: Resources) -> tuple[Setting, ...]:
    """What is to be written, in this order. Raises `SandboxError` for limits that contradict one another."""
    found: list[Setting] = []
    memory, swap = resources.memory, resources.memory_swap
    if memory:
        found.append(
            ("memory", "memory", "memory.limit_in_bytes", str(memory), "memory.max", str(memory)),
        )
    if swap:
        if swap > 0 and swap < memory:
            raise SandboxError(
                f"the limit of memory and swap together ({swap}) is smaller than that of memory ({memory})",
                hint="memory-swap is the sum of both; -1 lifts it",
            )
        if swap > 0 and not memory:
            raise SandboxError("a limit of memory and swap together needs one of memory", hint="give both")
        more = "max" if swap < 0 else str(swap - memory)
        found.append(
            ("memory-swap", "memory", "memory.memsw.limit_in_bytes", str(swap), "memory.swap.max", more)
        )
    if resources.cpu_shares:
        shares = str(resources.cpu_shares)
        found.append(
            ("cpu-shares", "cpu", "cpu.shares", shares, "cpu.weight", str(_weight(resources.cpu_shares)))
        )
    period, quota = resources.cpu_period, resources.cpu_quota
    both = f"{quota or 'max'} {period or _DEFAULT_PERIOD_US}"
    if period:
        found.append(("cpu-period", "cpu", "cpu.cfs_period_us", str(period), "cpu.max", both))
    if quota:
        found.append(("cpu-quota", "cpu", "cpu.cfs_quota_us", str(quota), "cpu.max", both))
    for name, listed in (("cpus", resources.cpuset_cpus), ("mems", resources.cpuset_mems)):
        if listed:
            found.append((f"cpuset-{name}", "cpuset", f"cpuset.{name}", listed, f"cpuset.{name}", listed))
    return tuple(found)


def pids_setting(most: int) -> Setting:
    """The bound on a step's processes and threads."""
    return ("pids", "pids", "pids.max", str(most), "pids.max", str(most))


def cgroup_directory(parent: str) -> str:
    """`--cgroup-parent` as a path below the root of a hierarchy: no `..` leads out of it.

    `a-b.slice:` is how systemd names what lies at `/a.slice/a-b.slice`.
    """
    if not parent:
        return ""
    if parent.endswith(":") and parent.rstrip(":").endswith(".slice"):
        name = parent.rstrip(":").rpartition("/")[2].removesuffix(".slice")
        parts = name.split("-")
        parent = "/".join(f"{'-'.join(parts[: count + 1])}.slice" for count in range(len(parts)))
    path = posixpath.normpath("/" + parent)
    if "\0" in path or "\n" in path:
        raise SandboxError(f"{parent!r} is not the name of a control group")
    return "" if path in ("/", "//") else "/" + path.lstrip("/")


def _weight(shares: int) -> int:
    """2..262144 shares as a weight of 1..10000, as runc maps them."""
    bounded = min(max(shares, 2), 262144)
    return 1 + (bounded - 2) * 9999 // 262142
