"""Twins of Zig's compiler for C, its linker and its archiver.

An official Zig is one static program for each machine, with the same LLVM and the same `lib` directory: for a
target that it is told it makes of C what every other one makes. It finds `lib`, and the program that it
starts for each C file (`zig clang`), by `/proc/self/exe`. That has to lead to the image's own Zig: so in the
twin the name is that of a link beside it.

Source in Zig is emulated. What a program computes while it is compiled, the compiler computes with its own
functions, and those for `comptime_float`, `f80` and `f128` differ: `@sin(1.5)` of a Zig for amd64 is as
precise as a `long double` there.

So are the commands that look at the machine (`env`, `targets`, `libc`), or compile and start programs for it
(`build`, `run`, `test`, `fmt` of some releases).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import msgspec

from anyarch.emulation.accelerate.dispatcher import (
    SHORT,
    ArgumentRule,
    Condition,
    EnvironmentRule,
    Twin,
    refusals,
)
from anyarch.emulation.accelerate.natives import Natives, read_file
from anyarch.emulation.accelerate.packages import names
from anyarch.emulation.accelerate.selection import TARGETS
from anyarch.emulation.accelerate.twins import Chosen, identity_of
from anyarch.errors import NotSupported, PathNotFound

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anyarch.emulation.accelerate.chains import Scene
    from anyarch.emulation.accelerate.packages import Packages

__all__ = ["Zig"]

# what Zig calls the machines that it runs on; where its results were compared, and what runs twins
_MACHINES = {"amd64": "x86_64", "arm64": "aarch64", "riscv64": "riscv64", "s390x": "s390x"}
_TARGETS = frozenset({"arm64", "riscv64", "s390x"})
# as it calls itself in debug information
_VERSION = re.compile(rb"(?<![ -~])zig (0\.[0-9]+\.[0-9]+(?:-dev\.[0-9]+\+[0-9a-f]+)?)\0")
_COMPARED = ("0.14",)
"""Releases of which emulated and native results were compared: parts of what Zig brings are in Zig."""

# where a Zig is: directories of Python's packages, those above a directory of its archive
_PYTHONS = ("usr/local/lib", "usr/lib", "opt/*/lib")
_ARCHIVES = ("usr/local", "usr/local/lib", "usr/lib", "opt")
_EXE = b"/proc/self/exe"
_LINKS = "0123456789abcdefghijklmnopqrstuvwxyz"

_RULES = tuple(map(EnvironmentRule, ("QEMU_", "CCC_", "LLVM_", "MUSL_LOCPATH=")))
_MACHINE = (
    *(f"{option}=native" for option in ("-march", "-mcpu", "-mtune", "-target", "--target", "-mtriple")),
    *("native", "/proc/cpuinfo", "/proc/self/", "/proc/thread-self/"),
)
_QUESTIONS = (
    *("@", "-v", "-V", "--version", "--help", "-help", "-print", "--print", "-dump", "-###"),
    *("--verbose", "-ftime", "--time", "--debug", "--show"),
)
_COMPILER = (
    # further code in the compiler, what it writes of its own runs, languages other than C
    *("-fplugin", "-fpass-plugin", "-load", "-fmodule", "-emit-pch", "-include-pch", "--config"),
    *("-specs", "-fprofile", "-fcoverage-mapping", "-fcrash", "-gen-reproducer", "-ccc", "-fproc-stat"),
    *("-save-temps", "--save-temps", "c-header", "c++-header", "-xc-header", "-xc++-header"),
)
_PROGRAMS_OF_LLVM = ("ar", "ranlib", "ld.lld")


class _Found(msgspec.Struct, frozen=True):
    """A Zig in a root, and where that of the native sibling is."""

    path: str
    native: str


class Zig:
    """Official builds of Zig: of PyPI's `ziglang`, and its archives in the usual places."""

    group = "z"
    kept = ""

    def packages(self, root: Packages, target: str) -> dict[str, str]:
        return {}

    def state(self, scene: Scene) -> object:
        return [
            (
                found,
                identity_of(scene.root, found.path),
                scene.is_of_base(found.path),
                identity_of(scene.natives[0], found.native),
            )
            for found in _all(scene)
        ]

    def choose(self, scene: Scene) -> Chosen:
        chosen = Chosen([], {}, {})
        natives = Natives(scene.natives[0], self.group, host=scene.host, target=scene.target)
        for letter, found in zip(_LINKS, _all(scene), strict=False):
            link = f"{self.group}{letter}"
            try:
                chosen.twins += _twins(scene, natives, found, link)
            except NotSupported as error:
                chosen.emulated[f"/{found.path}"] = error.message
                continue
            chosen.links[link] = f"/{found.path}"
        chosen.files |= natives.files
        return chosen


def _all(scene: Scene) -> list[_Found]:
    """Each once, by the path that links lead to."""
    found: dict[str, _Found] = {}
    for path in _paths(scene.root):
        try:
            real = scene.root.tree.resolve(path)
        except PathNotFound:
            continue
        if scene.root.tree.lookup(real) is not None and identity_of(scene.root, real) is not None:
            found[real] = _Found(real, _of_machine(real, scene.target, scene.host))
    return [found[path] for path in sorted(found)]


def _paths(root: Packages) -> Iterator[str]:
    for directory in _PYTHONS:
        above, _, below = directory.partition("/*")
        places = [f"{above}/{name}{below}" for name in names(root.tree, above)] if below else [directory]
        for place in places:
            for name in names(root.tree, place):
                if name.startswith("python3"):
                    for packages in ("site-packages", "dist-packages"):
                        yield f"{place}/{name}/{packages}/ziglang/zig"
    for directory in _ARCHIVES:
        for name in names(root.tree, directory):
            if name.startswith("zig"):
                yield f"{directory}/{name}/zig"


def _of_machine(path: str, target: str, host: str) -> str:
    """The path where a name that has the machine in it (`zig-linux-aarch64-0.13.0`) has the other one."""
    own, other = _MACHINES.get(target, ""), _MACHINES.get(host, "")
    if not own or not other:
        return path
    return re.sub(rf"(?<=/)(zig-[^/]*?)(?<![a-z0-9_]){own}(?![a-z0-9_])", rf"\g<1>{other}", path)


def _twins(scene: Scene, natives: Natives, found: _Found, link: str) -> list[Twin]:
    if scene.target not in _TARGETS:
        raise NotSupported(f"no native Zig is known to do the same as that of {scene.target}")
    scene.check_base(found.path, "it")
    theirs = _version(read_file(scene.root, found.path))
    ours = _version(_read(scene.natives[0], found.native))
    if theirs != ours or not theirs:
        raise NotSupported(f"Zig {theirs or 'of no known release'}, but {ours or 'none'} in the native image")
    if theirs.rpartition(".")[0] not in _COMPARED:
        raise NotSupported(f"Zig {theirs} is none of the releases that were compared: {', '.join(_COMPARED)}")
    identity = identity_of(scene.root, found.path)
    assert identity is not None
    place = natives.program(found.native, found.path, texts={_EXE: f"{SHORT}/{link}".encode()})

    def twin(conditions: tuple[Condition, ...], *texts: str) -> Twin:
        rules = (*refusals(texts), ArgumentRule("end", ".zig"))
        return Twin(f"/{found.path}", place, (identity,), conditions, rules)

    # keys of its cache are digests of numbers as the machine has them, and in objects of its stubs
    drivers = ("cc", "c++") if TARGETS[scene.target].is_little else ()
    compilers = [_condition(name, given) for name in drivers for given in ("-target", "--target=")]
    told = [twin(tuple(compilers), "-mllvm", *_QUESTIONS, *_MACHINE, *_COMPILER)] if compilers else []
    return [
        # what Zig starts for each C file: its messages are the compiler's own, and it is told all
        twin((_condition("clang", "-target"), _condition("-cc1", "-triple")), "@", *_MACHINE, *_COMPILER),
        twin(tuple(map(_condition, _PROGRAMS_OF_LLVM)), "@", *_MACHINE, "--reproduce", "--time"),
        *told,
        # all else is told to be emulated
        twin((_condition("", ""),), ""),
    ]


def _condition(first: str, given: str = "") -> Condition:
    return Condition((), _RULES, first, given, here=True)


def _read(packages: Packages, path: str) -> bytes:
    try:
        return read_file(packages, path)
    except NotSupported:
        return b""


def _version(program: bytes) -> str:
    """As the program has it; empty where it is not told as expected."""
    found = {version.decode() for version in _VERSION.findall(program)}
    return found.pop() if len(found) == 1 else ""
