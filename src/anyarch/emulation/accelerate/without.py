"""Tool chains that have no twins, and why: so that a step's log says it.

Zig takes its target from the machine and keeps its caches by its own digest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from anyarch.emulation.accelerate.packages import names
from anyarch.emulation.accelerate.twins import Chosen

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anyarch.emulation.accelerate.chains import Scene
    from anyarch.emulation.accelerate.packages import Packages

__all__ = ["WithoutTwins"]

_ZIG = "it keeps caches by its own digest and takes this machine for its target"
_PYTHONS = ("usr/local/lib", "usr/lib")


class WithoutTwins:
    """Zig."""

    group = "w"
    kept = ""

    def packages(self, root: Packages, target: str) -> dict[str, str]:
        return {}

    def state(self, scene: Scene) -> object:
        return sorted(_found(scene.root))

    def choose(self, scene: Scene) -> Chosen:
        return Chosen([], {}, dict(_found(scene.root)))


def _found(root: Packages) -> Iterator[tuple[str, str]]:
    for directory in _PYTHONS:
        for name in names(root.tree, directory):
            for packages in ("site-packages", "dist-packages"):
                path = f"{directory}/{name}/{packages}/ziglang/zig"
                if name.startswith("python3") and root.tree.lookup(path) is not None:
                    yield f"/{path}", _ZIG
