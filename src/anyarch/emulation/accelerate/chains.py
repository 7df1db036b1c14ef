"""Tool chains of languages: compilers that make code for any architecture, of whichever they are themselves.

For each there is a module that knows its parts; here is what they have in common. Their twins are the native
programs of exactly the version that a step's root has: from the native sibling of the base image, else from
the distribution's archive. What is left emulated is said, by package or path, in `Chosen.emulated`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

import msgspec

from anyarch.emulation.accelerate.natives import Natives
from anyarch.emulation.accelerate.packages import is_same_source
from anyarch.errors import NotSupported

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from anyarch.emulation.accelerate.packages import Packages
    from anyarch.emulation.accelerate.twins import Chosen

__all__ = [
    "Chain",
    "Scene",
    "Work",
    "Workshop",
    "chains",
    "libraries_of",
    "owned_natives",
    "owner_of",
]


class Work(msgspec.Struct, frozen=True):
    """A program that makes the twin `name`, run for this machine above the base image's sibling.

    `from_native` is the directory of the `native`th native tree that the program is in, `from_root` are
    directories of the step's root and where they are put. `place` is a directory with `files`, and the one
    that `product` is in afterwards; nothing else is kept."""

    name: str
    argv: tuple[str, ...]
    env: tuple[str, ...]
    place: str
    files: tuple[tuple[str, bytes], ...]
    product: str
    native: int
    from_native: str
    from_root: tuple[tuple[str, str], ...]


class Workshop(Protocol):
    """Where programs are run that twins are made by. What they have made is kept."""

    def is_wanted(self, name: str) -> bool:
        """Whether a twin that takes long to make has been found to be worth it: in this store the programs
        beside it have run natively as often as `Chosen.awaited` asks for, or nobody minds the time."""

    def make(self, work: Work, check: Callable[[], None]) -> bytes:
        """The product. `check` is called before it is made anew, and may refuse. Raises `NotSupported` when
        it cannot be made."""


class Scene(NamedTuple):
    """What twins are chosen for and from. `root` is the tree of a step, `based` how many of its layers are
    those of the base image; `natives` are trees of this machine's architecture, the base image's sibling
    first. `missing` is why the packages that were wanted could not be fetched. Without a `workshop` nothing
    is compiled."""

    root: Packages
    based: int
    natives: tuple[Packages, ...]
    host: str
    target: str
    missing: str = ""
    workshop: Workshop | None = None

    def is_of_base(self, path: str) -> bool:
        """Whether a file of the root is the base image's."""
        node = self.root.tree.lookup(path)
        return node is not None and node.position < self.based

    def check_base(self, path: str, what: str) -> None:
        """Raises `NotSupported` for a file, called `what`, that is not the base image's."""
        if not self.is_of_base(path):
            raise NotSupported(f"{what} is not the base image's, but came by a step")


class Chain(Protocol):
    """The tool chain of a language."""

    group: str
    """A letter of its own: where its files are below `HIDDEN`."""
    kept: str
    """A pattern for what is needed of its packages."""

    def packages(self, root: Packages, target: str) -> Mapping[str, str]:
        """The native packages (name and version, empty for any) that twins of what a root has would be made
        of."""

    def state(self, scene: Scene) -> object:
        """All in the trees that decides on the twins; its `repr` goes into their key."""

    def choose(self, scene: Scene) -> Chosen:
        """The twins. A part that cannot have one is told in `emulated`."""


def chains() -> Sequence[Chain]:
    """Those that are known."""
    from anyarch.emulation.accelerate.clang import Clang
    from anyarch.emulation.accelerate.golang import Go
    from anyarch.emulation.accelerate.rust import Rust
    from anyarch.emulation.accelerate.zig import Zig

    return (Go(), Clang(), Rust(), Zig())


def libraries_of(root: Packages, target: str, paths: Sequence[str]) -> dict[str, str]:
    """Packages and versions of the shared libraries that foreign programs need. `NotSupported` when one is
    missing or of no package."""
    foreign = Natives(root, "", host=target, target=target)
    found: dict[str, str] = {}
    for path in paths:
        for soname, library in foreign.libraries_of(path).items():
            owner = owner_of(root, path, soname, library)
            found[owner] = root.version(owner)
    return found


def owner_of(root: Packages, path: str, soname: str, library: str) -> str:
    """The package of a library that a program needs. Raises `NotSupported` when there is none."""
    owner = root.owner(library)
    if not owner:
        raise NotSupported(f"/{path} needs {soname}, which is of no package")
    return owner


def owned_natives(scene: Scene, package: str, paths: Sequence[str]) -> Packages:
    """The native tree that has a package in the version of the root's, as the package brought it. Raises
    `NotSupported` when none has, or the root's own files are not the package's."""
    version = scene.root.version(package)
    for path in paths:
        if not scene.root.is_intact(package, path):
            raise NotSupported(f"/{path} is not as its package brought it")
    for tree in scene.natives:
        if is_same_source(tree.version(package), version):
            return tree
    if scene.missing:
        raise NotSupported(scene.missing)
    others = ", ".join(dict.fromkeys(tree.version(package) or "none" for tree in scene.natives))
    raise NotSupported(f"version {version}, but {others} of the native package")
