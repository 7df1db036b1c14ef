"""How many files this process may have open at a time: a daemon of many builds needs more than the usual 1024
(some dozen for each). Its steps do not get more by that: programs that close all descriptors they could have
would take long over it."""

from __future__ import annotations

__all__ = ["limit_of_steps", "raise_limit"]

_before: list[int] = []


def raise_limit() -> None:
    """Allow as many as the system lets this process have."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        _before[:] = [soft]


def limit_of_steps() -> str:
    """What the limit was; empty where it was not raised."""
    return str(_before[0]) if _before else ""
