"""How the C library keeps the memory of a process of many threads."""

from __future__ import annotations

import ctypes

__all__ = ["few_arenas"]

_M_ARENA_MAX = -8  # glibc's malloc.h
_ARENAS = 2


def few_arenas() -> None:
    """Let all threads share two arenas; call it before there are threads. By default each of the threads of
    each build gets one of its own, and what it freed there is no use to others: an eighth of the daemon's
    memory. Threads of Python, which take turns anyway, do not wait for one another here. Nothing is done
    where the C library has no such thing."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, _ARENAS)
