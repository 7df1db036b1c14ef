"""What to do next when a RUN step has failed, by its status and the end of its output."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from anyarch.emulation.emulator import PLATFORM_ARCHITECTURES

if TYPE_CHECKING:
    from anyarch.emulation import Route

__all__ = ["hint_for", "memory_hint"]

# as a shell tells it: 128 + SIGILL, SIGTRAP, SIGABRT, SIGBUS, SIGFPE, SIGSEGV
_CRASHES = frozenset((132, 133, 134, 135, 136, 139))
_QEMU_CRASH = b"qemu: uncaught target signal"
_IDS_MISSED = re.compile(
    rb"(chown|chgrp|setgroups|sete?[ug]id|setres[ug]id|initgroups)\b.{0,200}"
    rb"(Invalid argument|Operation not permitted)"
)


def memory_hint(limit: int) -> str:
    """For a step whose process was killed for its limit of memory (bytes; 0: of a group above it)."""
    of = f" of {limit} bytes (--resource memory)" if limit else " of its control group"
    return f"the step needed more memory than its limit{of}: the kernel killed a process of it"


def hint_for(status: int, tail: bytes, route: Route, *, is_root: bool) -> str | None:
    """None when nothing more is known than the output says."""
    if route.kind == "native" and (b"xec format error" in tail or b"\x7fELF" in tail):
        # A shell takes what the kernel does not execute for a script, and shows its first words.
        return (
            "a program that the step runs is for another platform: only steps of that platform "
            "(FROM --platform=…) have an emulator, unless the machine has one registered for all"
        )
    if status in (126, 127) and b"not found" in tail:
        return "the program is not in this stage: check its spelling and PATH, or install it before"
    if route.kind != "native" and (status in _CRASHES or _QEMU_CRASH in tail):
        return (
            f"a program of the step crashed under {route.cache_identity} ({route.interpreter}); that may be "
            "the emulator's fault: try another version of it (--emulators DIRECTORY), a native node, or "
            "FROM --platform=$BUILDPLATFORM"
        )
    missed = _missed(tail, route, is_root=is_root)
    if missed is not None:
        return missed
    if b"No space left on device" in tail:
        return "the disk of the store is full: free some space, or set ANYARCH_ROOT to a larger one"
    if status == 137:
        return "the step was killed (signal 9): often it is out of memory"
    return None


def _missed(tail: bytes, route: Route, *, is_root: bool) -> str | None:
    """What a user namespace does not have, where the output shows that a program wanted it."""
    if b"mknod" in tail and b"Operation not permitted" in tail:
        if not is_root:
            return "the kernel makes no device nodes for an ordinary user's steps: build as root"
        if route.kind == "private":
            arch = PLATFORM_ARCHITECTURES.get(route.emulators[0].name.removeprefix("qemu-"), "all")
            return (
                f"the step runs by {route.cache_identity} in a user namespace, where the kernel makes no "
                "device nodes; steps make them by an emulator that is registered with the machine: "
                f"anyarch emulators install {arch}"
            )
    if not is_root and _IDS_MISSED.search(tail):
        return (
            "your user may have no further ids, or not enough, for the step to change owners to: grant a "
            "range in /etc/subuid and /etc/subgid and install newuidmap (package uidmap), or build as root"
        )
    return None
