"""Twins of rustc, for executables that cargo has it make.

rustc makes the same code for a target on every machine, and is told that of the image by a further argument.
Not so the metadata of libraries: parts of them are in an order, probably of hash tables, that depends on the
machine (seen: syn with 1.63, regex-syntax with 1.85). So libraries are emulated; executables hold no
metadata.

rustc loads procedural macros as libraries of its own architecture, and which of its runs needs one no
argument tells: a crate brings those in that it was compiled with, through `-L dependency`. But rustc itself
knows: metadata name the triple that a macro was compiled for, one for another machine is not found, and a
crate that cannot be found is an error, before anything is written. So a native rustc is tried; where it
fails, the emulated one does it all anew (and says what is wrong, where something is).

`cargo`, `rustdoc` and clippy are emulated: they tell the machine or load rustc as a library.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import msgspec

from anyarch.emulation.accelerate.chains import owned_natives, owner_of
from anyarch.emulation.accelerate.dispatcher import ArgumentRule, EnvironmentRule, Twin, refusals
from anyarch.emulation.accelerate.natives import Natives, read_file
from anyarch.emulation.accelerate.packages import is_same_source, names
from anyarch.emulation.accelerate.selection import conditions
from anyarch.emulation.accelerate.twins import Chosen, identity_of
from anyarch.errors import NotSupported

if TYPE_CHECKING:
    from anyarch.emulation.accelerate.chains import Scene
    from anyarch.emulation.accelerate.packages import Packages

__all__ = ["Rust"]

_PROGRAM = "usr/bin/rustc"
_PACKAGES = ("rustc", "rustc-web")
"""The second is Debian's newer one, for building browsers."""
_OWN = re.compile(r"(librustc_driver|libstd|libLLVM)[-.].*")
_TOOLCHAINS = "usr/local/rustup/toolchains"
_NAME = re.compile(r"([0-9a-z.-]+?)-([a-z0-9_]+)-unknown-linux-(gnu|musl)")
_VERSION = re.compile(rb"1\.[0-9]+\.[0-9]+[-.a-z0-9]* \([0-9a-f]{9} [0-9-]{10}\)")
# what rustc calls the machines that it runs on. Those where it was compared: with another byte order (s390x)
# it makes other metadata, with 32 bits its hashes have another size
_MACHINES = {"amd64": "x86_64", "arm64": "aarch64", "ppc64le": "powerpc64le"}

# what says that all has been checked and other crates can be compiled against it: cargo waits for that
_TRIAL = ',"emit":"metadata"}\n'

# cargo says what a crate is to be; else an attribute in its source may make a library of it
_BY_CARGO = "CARGO_CRATE_NAME="
_EXECUTABLES = (
    ArgumentRule("next", "--crate-type", "bin"),
    ArgumentRule("refuse", "--crate-type="),
    ArgumentRule("accept", "--emit=dep-info,link"),
    ArgumentRule("refuse", "--emit"),
)
_REFUSED = (
    # what tells of the compiler, another target or place, what is for those who work on the compiler
    *("@", "-V", "-v", "-h", "--version", "--verbose", "--help", "--print", "--explain", "-Whelp", "-Chelp"),
    *("--target", "--sysroot", "-Z", "-o-"),
    *(
        f"{option}{text}"
        for option in ("", "-C", "--codegen=")
        # this machine's processor, texts for LLVM, what is read from other runs
        for text in ("target-cpu=native", "llvm-args=", "passes=", "profile-", "instrument-coverage", "help")
    ),
    *("/proc/cpuinfo", "/proc/self/", "/proc/thread-self/", "/proc/net/route"),
)
# libraries have names of their own here, so that those that cargo and rustup set do not matter
_NO_MATTER = ("LD_LIBRARY_PATH=", "LD_RUN_PATH=", "LD_")
_VARIABLES = tuple(
    EnvironmentRule(f"LD_{name}")
    for name in ("AUDIT", "DEBUG", "HWCAP", "ORIGIN", "PREFER", "PROFILE", "SHOW", "TRACE", "USE", "VERBOSE")
)


class _Tree(msgspec.Struct, frozen=True):
    """A rustc in a root: its program, sysroot and target, and of which package it is; one of rustup is of
    none, but in another place in a native tree and has its libraries beside it."""

    program: str
    sysroot: str
    triple: str
    package: str = ""
    native: str = _PROGRAM

    @property
    def libraries(self) -> tuple[list[str], list[str]]:
        """Further directories of the foreign and the native one."""
        if self.package:
            return [], []
        return [f"{self.sysroot}/lib"], [f"{self.native.removesuffix('/bin/rustc')}/lib"]


class Rust:
    """Debian's and Ubuntu's rustc, and rustup's in the place where the image `rust` has them."""

    group = "r"
    kept = r"usr/bin/rustc$|(usr/)?lib(64)?/.*\.so"

    def packages(self, root: Packages, target: str) -> dict[str, str]:
        found: dict[str, str] = {}
        for tree in _trees(root, target, target):
            if tree.package and tree.triple:
                found[tree.package] = root.version(tree.package)
                for soname, library in _libraries(root, target, tree).items():
                    owner = owner_of(root, tree.program, soname, library)
                    found[owner] = root.version(owner) if _OWN.fullmatch(soname) else found.get(owner, "")
        return found

    def state(self, scene: Scene) -> object:
        trees = _trees(scene.root, scene.target, scene.host)
        paths = [path for tree in trees for path in (tree.program, *tree.libraries[0])]
        return [
            trees,
            [identity_of(scene.root, tree.program) for tree in trees],
            [(names(scene.root.tree, path), scene.is_of_base(path)) for path in paths],
            [names(scene.natives[0].tree, path) for tree in trees for path in tree.libraries[1]],
        ]

    def choose(self, scene: Scene) -> Chosen:
        chosen = Chosen([], {}, {})
        for tree in _trees(scene.root, scene.target, scene.host):
            try:
                native = _native(scene, tree)
                natives = Natives(
                    native,
                    self.group,
                    host=scene.host,
                    target=scene.target,
                    directories=tree.libraries[1],
                )
                chosen.twins.append(_twin(scene, natives, tree))
            except NotSupported as error:
                chosen.emulated[tree.package or f"/{tree.program}"] = error.message
                continue
            chosen.files |= natives.files
        return chosen


def _trees(root: Packages, target: str, host: str) -> list[_Tree]:
    """What there is of rustc. The target is empty where none is known to be the same."""
    machine = _MACHINES.get(target, "")
    triple = f"{machine}-unknown-linux-gnu" if machine else ""
    found = [_Tree(_PROGRAM, "usr", triple, package) for package in _PACKAGES if root.version(package)]
    for name in names(root.tree, _TOOLCHAINS):
        match = _NAME.fullmatch(name)
        place = f"{_TOOLCHAINS}/{name}"
        if match is None:
            found.append(_Tree(f"{place}/bin/rustc", place, ""))
        else:
            triple = f"{machine}-unknown-linux-{match[3]}" if match[2] == machine else ""
            native = f"{_TOOLCHAINS}/{match[1]}-{_MACHINES[host]}-unknown-linux-{match[3]}/bin/rustc"
            found.append(_Tree(f"{place}/bin/rustc", place, triple, native=native))
    return found


def _libraries(root: Packages, target: str, tree: _Tree) -> dict[str, str]:
    foreign = Natives(root, "", host=target, target=target, directories=tree.libraries[0])
    return foreign.libraries_of(tree.program)


def _native(scene: Scene, tree: _Tree) -> Packages:
    """The native tree with the same rustc."""
    if not tree.triple:
        raise NotSupported(f"no native rustc is known to do the same as that of {scene.target}")
    if tree.package:
        native = owned_natives(scene, tree.package, [tree.program])
        for soname, path in _own_libraries(scene.root, scene.target, tree).items():
            owner = owner_of(scene.root, tree.program, soname, path)
            owned_natives(scene, owner, [scene.root.tree.resolve(path)])
            if not is_same_source(native.version(owner), scene.root.version(owner)):
                told = native.version(owner) or "none"
                raise NotSupported(f"{owner} {scene.root.version(owner)}, but {told} of the native package")
        return native
    scene.check_base(tree.program, f"/{tree.program}")
    own = _own_libraries(scene.root, scene.target, tree)
    for path in map(scene.root.tree.resolve, own.values()):
        scene.check_base(path, f"/{path}")
    native = scene.natives[0]
    other = Natives(native, "", host=scene.host, target=scene.host, directories=tree.libraries[1])
    theirs, ours = _version(scene.root, own), _version(native, other.libraries_of(tree.native))
    if theirs != ours or not theirs:
        raise NotSupported(f"rustc {theirs or 'of no release'}, but {ours or 'none'} in the native image")
    return native


def _own_libraries(root: Packages, target: str, tree: _Tree) -> dict[str, str]:
    """Those of rustc and LLVM, which decide on the code."""
    found = _libraries(root, target, tree)
    return {soname: path for soname, path in found.items() if _OWN.fullmatch(soname)}


def _version(packages: Packages, libraries: dict[str, str]) -> str:
    """Release, commit and day, as one of its libraries has them; empty where they are not told."""
    found = {
        version.decode()
        for soname, path in libraries.items()
        if soname.startswith("librustc_driver")
        for version in _VERSION.findall(read_file(packages, path))
    }
    return found.pop() if len(found) == 1 else ""


def _twin(scene: Scene, natives: Natives, tree: _Tree) -> Twin:
    found = identity_of(scene.root, tree.program)
    if found is None:
        raise NotSupported(f"/{tree.program} is no program")
    standard = f"{tree.sysroot}/lib/rustlib/{tree.triple}/lib"
    if not names(scene.root.tree, standard):
        raise NotSupported(f"/{standard} is missing")
    # its libraries have names of their own, so that cargo's and rustup's directories do not matter to it
    allowed = tuple(
        msgspec.structs.replace(
            one,
            rules=tuple(rule for rule in one.rules if rule.prefix not in _NO_MATTER) + _VARIABLES,
            here=True,  # it looks around where it is
            needs=(*one.needs, _BY_CARGO),
        )
        for one in conditions(scene.target)
    )
    return Twin(
        f"/{tree.program}",
        natives.program(tree.native, tree.program, texts={}),
        (found,),
        allowed,
        # nothing can follow `-`: it reads its input, which can be read once
        (*_EXECUTABLES, *refusals(_REFUSED), ArgumentRule("next", "-", "\1")),
        (f"--target={tree.triple}", f"--sysroot=/{tree.sysroot}"),
        trial=_TRIAL,
    )
