"""Platforms of a node, short enough for a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["truncated"]

_MAJOR = (
    "linux/amd64",
    "linux/arm64",
    "linux/arm",
    "linux/ppc64le",
    "linux/s390x",
    "linux/riscv64",
    "linux/mips64",
)


def truncated(shown: Sequence[str], most: int = 4) -> str:
    """At most `most` architectures, well known ones first, each with the number of its variants: `linux/amd64
    (+3), linux/386, (5 more)`. A `*` stays where one of the variants has it."""
    groups: dict[str, list[str]] = {}
    for text in shown:
        groups.setdefault("/".join(text.rstrip("*").split("/")[:2]), []).append(text)
    order = [name for name in _MAJOR if name in groups][:most]
    order += sorted(name for name in groups if name not in _MAJOR)[: most - len(order)]
    parts = []
    for name in order:
        members = groups[name]
        if len(members) == 1:
            parts.append(members[0])
        else:
            star = "*" if any(member.endswith("*") for member in members) else ""
            parts.append(f"{name}{star} (+{len(members)})")
    left = len(shown) - sum(len(groups[name]) for name in order)
    if left:
        parts.append(f"({left} more)")
    return ", ".join(parts)
