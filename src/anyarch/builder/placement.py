"""Which node builds which platform: decided here and nowhere else, by values alone.

As buildx does it: a platform that the user fixed for a node goes there; else the closest match by
containerd's rules (a node of amd64 also serves 386, arm64 serves arm) wins, and of equally close ones the
first. Where buildx leaves it to chance: native goes before emulated, equal nodes share the platforms, and
what no node can run is an error that says what each node can do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from anyarch.errors import BuilderError
from anyarch.spec.platform import Platform, compatible

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from anyarch.builder.builder import Node

__all__ = ["Assignment", "Candidate", "group", "place", "place_fixed"]


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """A node as far as placing goes. `detected` are the platforms that it says it can run, its own first;
    empty for a node that was not asked."""

    name: str
    fixed: tuple[Platform, ...] = ()
    detected: tuple[Platform, ...] = ()

    @classmethod
    def of(cls, node: Node) -> Candidate:
        return cls(name=node.name, fixed=node.fixed, detected=node.detected)

    def is_native(self, platform: Platform) -> bool:
        """Whether the node needs no emulator for it, as far as it told."""
        own = self.detected[:1] or self.fixed
        return any(
            platform.os == other.os and platform.architecture == other.architecture
            for offered in own
            for other in compatible(offered)
        )


class Assignment(msgspec.Struct, frozen=True):
    """A platform, the number of the node that builds it, and why that one: fixed, native, emulated, or
    unknown (no node lists it, and nothing has to run for it)."""

    platform: Platform
    node: int
    how: str


def place_fixed(wanted: Sequence[Platform], candidates: Sequence[Candidate]) -> list[Assignment] | None:
    """The placement if every platform is fixed for some node: then no other node has to be asked or
    started."""
    found = []
    for platform in wanted:
        number = next((n for n, node in enumerate(candidates) if platform in node.fixed), None)
        if number is None:
            return None
        found.append(Assignment(platform, number, "fixed"))
    return found


def place(
    wanted: Sequence[Platform],
    candidates: Sequence[Candidate],
    *,
    must_run: bool = True,
    load: Iterable[int] = (),
) -> list[Assignment]:
    """One assignment for each platform, in the order wanted.

    With `must_run` a platform that matches no node is an error, else it goes to the first node: files can be
    copied for any platform. `load` is how many platforms each node has already. Raises `BuilderError`.
    """
    counts = [0] * len(candidates)
    for number, count in enumerate(load):
        counts[number] = count
    assigned = []
    for platform in wanted:
        ranks = [_rank(platform, candidate) for candidate in candidates]
        able = [(rank, counts[number], number) for number, rank in enumerate(ranks) if rank is not None]
        if able:
            _, _, number = min(able)
            how = _how(platform, candidates[number])
        elif must_run or not candidates:
            raise _nobody(platform, candidates)
        else:
            number, how = 0, "unknown"
        counts[number] += 1
        assigned.append(Assignment(platform, number, how))
    return assigned


def group(assignments: Iterable[Assignment]) -> dict[int, list[Platform]]:
    """The platforms of each node, nodes in order, platforms in the order wanted."""
    groups: dict[int, list[Platform]] = {}
    for item in assignments:
        groups.setdefault(item.node, []).append(item.platform)
    return dict(sorted(groups.items()))


def _rank(platform: Platform, candidate: Candidate) -> tuple[int, int, int] | None:
    """How well a node suits, less is better; None: not at all."""
    if platform in candidate.fixed:
        return (0, 0, 0)
    distances = [
        chain.index(platform)
        for offered in (*candidate.fixed, *candidate.detected)
        if platform in (chain := compatible(offered))
    ]
    if not distances:
        return None
    return (1, min(distances), 0 if candidate.is_native(platform) else 1)


def _how(platform: Platform, candidate: Candidate) -> str:
    if platform in candidate.fixed:
        return "fixed"
    return "native" if candidate.is_native(platform) else "emulated"


def _nobody(platform: Platform, candidates: Sequence[Candidate]) -> BuilderError:
    if not candidates:
        return BuilderError(f"no node is there to build {platform}")
    lines = []
    for candidate in candidates:
        able = dict.fromkeys((*candidate.fixed, *candidate.detected))
        lines.append(f"node {candidate.name}: {', '.join(map(str, able)) or 'told no platform'}")
    lines.append(
        f"append a node for {platform.architecture}, register an emulator on one of them, or fix the "
        f"platform for a node: create --node NAME --platform {platform}"
    )
    return BuilderError(f"no node of the builder can run {platform}", hint="\n".join(lines))
