"""Twins of Go's back ends.

Compiler, assembler, linker, cgo and the like make the same code on every machine: they take the architecture
that it is for from GOARCH. Only without it they take their own. The `go` command sets it for all that it
starts, with GOTOOLDIR and the other variables that have a default: who starts a back end in another way gets
the emulated one. The `go` command tells the machine's architecture: its twin is made (`gocommand`).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import msgspec

from anyarch.emulation.accelerate import gocommand
from anyarch.emulation.accelerate.chains import owned_natives
from anyarch.emulation.accelerate.dispatcher import Condition, EnvironmentRule, Twin
from anyarch.emulation.accelerate.natives import Natives, read_file
from anyarch.emulation.accelerate.twins import Chosen, identity_of
from anyarch.errors import NotSupported

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anyarch.emulation.accelerate.chains import Scene
    from anyarch.emulation.accelerate.packages import Packages

__all__ = ["Go"]

_TOOLS = ("asm", "buildid", "cgo", "compile", "cover", "link", "pack", "preprofile", "vet")
_PACKAGE = re.compile(r"golang-(1\.[0-9]+)-go")
_UPSTREAM = "usr/local/go"
_MINOR = re.compile(r"go1\.([0-9]+)")
_VERSION = re.compile(r"go1\.[0-9]+(?:\.[0-9]+|(?:rc|beta)[0-9]+)?")
# what programs are told to look for their loader by: the linker's default, unless it was built for another
_LOADER = re.compile(rb"/lib(?:32|64)?/ld(?:32|64)?[-a-z0-9_]*\.so\.[0-9]")

_ARCHITECTURES = (
    *("386", "amd64", "arm", "arm64", "loong64", "mips", "mips64", "mips64le", "mipsle", "ppc64", "ppc64le"),
    *("riscv64", "s390x", "wasm"),
)
_SYSTEMS = (
    *("aix", "android", "darwin", "dragonfly", "freebsd", "illumos", "ios", "js", "linux", "netbsd"),
    *("openbsd", "plan9", "solaris", "wasip1", "windows"),
)
_BY_GO = Condition(
    ("GOARCH=", "GOOS=", "GOTOOLDIR="),
    (
        EnvironmentRule("GOARCH=", _ARCHITECTURES),
        EnvironmentRule("GOOS=", _SYSTEMS),
        EnvironmentRule("QEMU_"),
    ),
)
_BY_ANYONE = Condition((), (EnvironmentRule("QEMU_"),))
# what matters to a program that is linked with the C library, and to its resolver: the twin is not
_OF_LIBC = ("LD_", "LOCALDOMAIN=", "RES_OPTIONS=", "HOSTALIASES=", "GODEBUG=")


class _Tree(msgspec.Struct, frozen=True):
    """A Go in a root: where, and of which package (none for one of Go's own archives)."""

    directory: str
    package: str = ""

    def tools(self, architecture: str) -> dict[str, str]:
        """Paths by name."""
        below = f"{self.directory}/pkg/tool/linux_{architecture}"
        return {
            **{name: f"{below}/{name}" for name in _TOOLS},
            "gofmt": f"{self.directory}/bin/gofmt",
        }

    @property
    def command(self) -> str:
        """The path of `go`."""
        return f"{self.directory}/bin/go"


class Go:
    """Debian's and Ubuntu's packages golang-1.NN-go, and Go's own archive in /usr/local/go."""

    group = "g"
    kept = r"usr/lib/go-1\.[0-9]+/(pkg/tool/|bin/|VERSION$)"

    def packages(self, root: Packages, target: str) -> dict[str, str]:
        return {name: package.version for name, package in root.installed.items() if _PACKAGE.fullmatch(name)}

    def state(self, scene: Scene) -> object:
        return [
            (
                tree,
                scene.workshop is not None and scene.workshop.is_wanted(_name(scene, tree)),
                _version(scene.root, tree),
                [_version(native, tree) for native in scene.natives],
                [
                    (path, identity_of(scene.root, path), scene.is_of_base(path))
                    for path in (tree.command, *tree.tools(scene.target).values())
                ],
            )
            for tree in _trees(scene.root)
        ]

    def choose(self, scene: Scene) -> Chosen:
        chosen = Chosen([], {}, {})
        for tree in _trees(scene.root):
            try:
                native = _native(scene, tree)
            except NotSupported as error:
                chosen.emulated[tree.package or f"/{tree.directory}"] = error.message
                continue
            natives = Natives(native, self.group, host=scene.host, target=scene.target)
            tools = tree.tools(scene.target)
            for name, path in tools.items():
                try:
                    twin = _twin(scene, native, natives, name, path, tree.tools(scene.host)[name])
                except NotSupported as error:
                    chosen.emulated[f"/{path}"] = error.message
                    continue
                if twin is not None:
                    chosen.twins.append(twin)
            made = {"go": tree.command}
            if f"/{tools['link']}" not in {twin.path for twin in chosen.twins}:
                made["link"] = tools["link"]
            for name, path in made.items():
                try:
                    twin = _made(scene, tree, native, natives, name)
                except NotSupported as error:
                    chosen.emulated[f"/{path}"] = error.message
                    if isinstance(error, _NotYet):
                        beside = tuple(f"/{tool}" for tool in tools.values())
                        chosen.awaited[_name(scene, tree)] = beside
                    continue
                if twin is not None:
                    chosen.twins.append(twin)
            chosen.files |= natives.files
        return chosen


def _trees(root: Packages) -> list[_Tree]:
    found = [
        _Tree(f"usr/lib/go-{match[1]}", name)
        for name in sorted(root.installed)
        if (match := _PACKAGE.fullmatch(name))
    ]
    upstream = _Tree(_UPSTREAM)
    return [*found, upstream] if _version(root, upstream) else found


def _version(packages: Packages, tree: _Tree) -> str:
    """`go1.22.1`; empty for a development version or no Go at all."""
    try:
        words = read_file(packages, f"{tree.directory}/VERSION").decode("utf-8", "replace").split()
    except NotSupported:
        return ""
    return words[0] if words and _VERSION.fullmatch(words[0]) else ""


def _native(scene: Scene, tree: _Tree) -> Packages:
    """The native tree with the same Go."""
    present = [path for path in tree.tools(scene.target).values() if _exists(scene.root, path)]
    if tree.package:
        return owned_natives(scene, tree.package, present)
    version = _version(scene.root, tree)
    for path in present:
        scene.check_base(path, version)
    sibling = _version(scene.natives[0], tree)
    if sibling != version:
        raise NotSupported(f"{version}, but {sibling or 'none'} in the native image")
    return scene.natives[0]


def _twin(scene: Scene, native: Packages, natives: Natives, name: str, path: str, own: str) -> Twin | None:
    found = identity_of(scene.root, path)
    if found is None:
        return None  # not of this version of Go
    if name == "link" and not _knows_loaders(read_file(scene.root, path), read_file(native, own)):
        return None  # it is made, as the go command is
    place = natives.program(own, path, texts={})
    condition = _BY_ANYONE if name == "gofmt" else _BY_GO
    return Twin(f"/{path}", place, (found,), (condition,))


class _NotYet(NotSupported):
    """It is not known yet that making it is worth the time."""


def _name(scene: Scene, tree: _Tree) -> str:
    version = scene.root.version(tree.package) if tree.package else _version(scene.root, tree)
    return f"go {version} for {scene.target} on {scene.host}"


def _made(scene: Scene, tree: _Tree, native: Packages, natives: Natives, command: str) -> Twin | None:
    """The twin of a command that is made from the sources that the root has."""
    path = tree.command if command == "go" else tree.tools(scene.target)[command]
    found = identity_of(scene.root, path)
    if found is None:
        return None  # a link or a script
    if scene.workshop is None:
        raise NotSupported("nothing can be compiled here")
    if tree.package and not scene.root.is_intact(tree.package, path):
        raise NotSupported("it is not as its package brought it")
    if not tree.package:
        scene.check_base(path, "it")
    name = _name(scene, tree)
    if not scene.workshop.is_wanted(name):
        raise _NotYet("its twin takes a minute to make; it is made when Go has compiled a program here")
    minor = _MINOR.match(_version(scene.root, tree))
    if minor is None:
        raise NotSupported("its release is not known")
    work = gocommand.work(
        name,
        scene.root,
        tree.directory,
        command=command,
        minor=int(minor[1]),
        target=scene.target,
        native=scene.natives.index(native),
    )
    directories = [path for path, _ in work.from_root]
    made = scene.workshop.make(work, lambda: _check_sources(scene, tree, directories))
    if not gocommand.is_static(made, scene.host):
        raise NotSupported(f"what was made is no static program of {scene.host}")
    of_libc = () if gocommand.is_static(read_file(scene.root, path), scene.target) else _OF_LIBC
    rules = tuple(map(EnvironmentRule, ("QEMU_", *of_libc)))
    condition = Condition((), rules, here=command == "go")
    return Twin(f"/{path}", natives.made(made, path), (found,), (condition,))


def _check_sources(scene: Scene, tree: _Tree, directories: Sequence[str]) -> None:
    """They have to be those that the emulated command is compiled from."""
    packages = [tree.package, tree.package.removesuffix("-go") + "-src"] if tree.package else []
    owners = {path: package for package in packages for path in scene.root.files(package)}
    for directory in directories:
        for path, is_file in gocommand.sources(scene.root, directory):
            if not tree.package:
                is_original = is_file and scene.is_of_base(path)
            else:
                is_original = is_file and path in owners and scene.root.is_intact(owners[path], path)
            if not is_original:
                raise NotSupported(f"/{path} is not as {tree.package or 'the base image'} brought it")


def _knows_loaders(theirs: bytes, ours: bytes) -> bool:
    """Whether the native linker has the default of the foreign one for the loader of programs: that may be
    another than the table's, for its own architecture alone."""
    return set(_LOADER.findall(theirs)) <= set(_LOADER.findall(ours))


def _exists(packages: Packages, path: str) -> bool:
    return packages.tree.lookup(path) is not None
