"""Tool chains that have no twins, and why: so that a step's log says it.

rustc loads procedural macros, and they are compiled in the same run and into the same directory as what is
for the image: a native rustc would need them for this machine, and what it leaves behind would differ. Nor do
arguments tell which runs load one: a crate that re-exports macros brings them in by `-L dependency`. cargo
asks rustc what it is and starts build scripts, which are programs for rustc's own architecture. Zig takes its
target from the machine and keeps its caches by its own digest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from anyarch.emulation.accelerate.twins import Chosen
from anyarch.errors import PathNotFound

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anyarch.emulation.accelerate.chains import Scene
    from anyarch.emulation.accelerate.packages import Packages

__all__ = ["WithoutTwins"]

_RUST = "it loads procedural macros of its own architecture and builds them beside what is for the image"
_PACKAGES = {"rustc": _RUST, "cargo": "what it starts beside compilers are programs of rustc's architecture"}
_TOOLCHAINS = "usr/local/rustup/toolchains"
_ZIG = "it keeps caches by its own digest and takes this machine for its target"
_PYTHONS = ("usr/local/lib", "usr/lib")


class WithoutTwins:
    """Rust and Zig."""

    group = "w"
    kept = ""

    def packages(self, root: Packages, target: str) -> dict[str, str]:
        return {}

    def state(self, scene: Scene) -> object:
        return sorted(_found(scene.root))

    def choose(self, scene: Scene) -> Chosen:
        return Chosen([], {}, dict(_found(scene.root)))


def _found(root: Packages) -> Iterator[tuple[str, str]]:
    for package, reason in _PACKAGES.items():
        if root.version(package):
            yield package, reason
    for name in _names(root, _TOOLCHAINS):
        yield f"/{_TOOLCHAINS}/{name}", _RUST
    for directory in _PYTHONS:
        for name in _names(root, directory):
            for packages in ("site-packages", "dist-packages"):
                path = f"{directory}/{name}/{packages}/ziglang/zig"
                if name.startswith("python3") and root.tree.lookup(path) is not None:
                    yield f"/{path}", _ZIG


def _names(root: Packages, path: str) -> list[str]:
    try:
        return root.tree.listdir(path)
    except PathNotFound:
        return []
