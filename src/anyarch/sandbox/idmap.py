"""Which ids a step of an ordinary user can have: the ranges of /etc/subuid and /etc/subgid (subuid(5))."""

from __future__ import annotations

__all__ = ["map_arguments", "parse_subids"]


def parse_subids(text: str, *, name: str, number: int) -> list[tuple[int, int]]:
    """The (first, count) ranges that a subuid or subgid file gives the user `name` with the id `number`."""
    ranges = []
    for line in text.splitlines():
        parts = line.strip().split(":")
        if len(parts) != 3 or parts[0] not in (name, str(number)):
            continue
        if parts[1].isdecimal() and parts[2].isdecimal() and int(parts[2]) > 0:
            ranges.append((int(parts[1]), int(parts[2])))
    return ranges


def map_arguments(own: int, ranges: list[tuple[int, int]]) -> list[str]:
    """What newuidmap (newgidmap) takes after the pid: 0 is the user itself, from 1 on its ranges."""
    arguments = ["0", str(own), "1"]
    inside = 1
    for first, count in ranges:
        arguments += [str(inside), str(first), str(count)]
        inside += count
    return arguments if ranges else []
