"""Processes of this machine by their parents, for tests that claim that none is left."""

from __future__ import annotations

import os
import time
from pathlib import Path


def _parent_and_state(pid: int) -> tuple[int, str]:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0, ""
    state, parent = stat.rpartition(")")[2].split()[:2]
    return int(parent), state


def descendants(pid: int) -> dict[int, str]:
    """All processes below `pid`, with their state (`Z` is a zombie)."""
    parents = {}
    states = {}
    for name in os.listdir("/proc"):
        if name.isdecimal():
            parents[int(name)], states[int(name)] = _parent_and_state(int(name))
    found: dict[int, str] = {}
    pending = [pid]
    while pending:
        above = pending.pop()
        children = [child for child, parent in parents.items() if parent == above]
        found.update((child, states[child]) for child in children)
        pending += children
    return found


def at_least(count: int, pid: int) -> set[tuple[int, str]]:
    """The identities of all processes below `pid`, once there are so many of them."""
    found: set[tuple[int, str]] = set()
    for _ in range(1000):
        found = {identity(process) for process in descendants(pid)}
        if len(found) >= count:
            break
        time.sleep(0.01)
    return found


def identity(pid: int) -> tuple[int, str]:
    """Tells a process from a later one with the same number."""
    try:
        return pid, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return pid, ""


def wait_until_gone(processes: set[tuple[int, str]]) -> set[tuple[int, str]]:
    """Those that are still there after a generous time."""
    for _ in range(1000):
        left = {process for process in processes if process[1] and identity(process[0]) == process}
        if not left:
            return left
        time.sleep(0.01)
    return left


def mounts_below(directory: Path) -> list[str]:
    """Mounts on or of something in `directory`, in the mount namespace of any process."""
    found = []
    for name in os.listdir("/proc"):
        if not name.isdecimal():
            continue
        try:
            text = Path(f"/proc/{name}/mountinfo").read_text()
        except OSError:
            continue  # it has ended
        found += [f"{name}: {line}" for line in text.splitlines() if str(directory) in line]
    return found
