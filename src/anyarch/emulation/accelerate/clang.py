"""Twins of clang, lld and LLVM's tools for archives and objects.

LLVM makes code for every architecture that it was built for, and Debian builds it for all. What it takes for
granted without being told is its own architecture: so the driver is told that of the image, as text of the
image's own libLLVM has it, by a further argument. What a driver starts (`clang -cc1`) is told by the driver.

A driver knows where its headers are by where it is itself, and finds that by `argv[0]`, as the name that the
kernel has for a twin is not to be found in the step.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import msgspec

from anyarch.emulation.accelerate.chains import libraries_of, owned_natives
from anyarch.emulation.accelerate.dispatcher import ArgumentRule, EnvironmentRule, Twin, refusals
from anyarch.emulation.accelerate.natives import Natives, read_file
from anyarch.emulation.accelerate.selection import TARGETS, conditions
from anyarch.emulation.accelerate.twins import Chosen, identity_of
from anyarch.errors import NotSupported

if TYPE_CHECKING:
    from anyarch.emulation.accelerate.chains import Scene
    from anyarch.emulation.accelerate.packages import Packages

__all__ = ["Clang"]

_OWN = re.compile(r"(clang|lld|llvm|libllvm|libclang-cpp)-?([0-9]+)")
_TRIPLE = re.compile(rb"(?<![ -~])[a-z0-9_]+-(?:[a-z0-9]+-)?linux-gnu[a-z0-9]*(?=\0)")
# packages, and their programs in the directory of their version
_PROGRAMS = {"clang": ("clang",), "lld": ("lld",), "llvm": ("llvm-ar", "llvm-objcopy")}

_QUESTIONS = ("@", "-v", "-V", "--version", "-version", "-help", "--help")
# other targets, this machine's CPU, what tells the arguments or places, further code in the compiler
_DRIVER_REFUSED = (
    *_QUESTIONS,
    *("-target", "--target", "-march=native", "-mcpu=native", "-mtune=native", "-print", "--print", "-dump"),
    *("-###", "--config", "-fplugin", "-fpass-plugin", "-load", "-flto", "-fmodule", "-MJ", "-grecord"),
    *("-frecord", "-fembed", "-save-temps", "--save-temps", "-ccc", "-ftime", "-fproc", "-fprofile"),
    *("--coverage", "-coverage", "-fcoverage", "-no-canonical-prefixes", "--analyze", "-emit", "-mllvm"),
    *("-fcrash", "-gen-reproducer", "--driver-mode", "-specs", "--cuda", "-fopenmp-targets", "-fsycl"),
)
# as far as the driver lets it through
_CC1_REFUSED = (
    *("@", "--version", "-version", "-help", "--help", "-print", "-load", "-plugin", "-add-plugin"),
    *("-fplugin", "-fpass-plugin", "-flto", "-emit-pch", "-emit-module", "-fmodule", "-include-pch"),
    *("-ftime", "-fprofile", "-fcoverage-mapping"),
)
_LLD_REFUSED = (
    *_QUESTIONS,
    "--reproduce",
    "--time-trace",
    "-Map",
    "--print",
    "-plugin-opt",
    "--lto",
    "-mllvm",
)


class Clang:
    """Debian's and Ubuntu's packages clang-NN, lld-NN and llvm-NN."""

    group = "c"
    kept = r"(usr/)?lib(64)?/"

    def packages(self, root: Packages, target: str) -> dict[str, str]:
        found: dict[str, str] = {}
        if TARGETS[target].bits == 32:
            return found  # it is emulated
        for package, paths in _installed(root).items():
            found[package] = root.version(package)
            for name, version in libraries_of(root, target, paths).items():
                # LLVM's own decide on the code; of others any serves
                found[name] = version if _OWN.fullmatch(name) else ""
        return found

    def state(self, scene: Scene) -> object:
        return [
            [(path, identity_of(scene.root, path)) for path in paths]
            for paths in _installed(scene.root).values()
        ]

    def choose(self, scene: Scene) -> Chosen:
        chosen = Chosen([], {}, {})
        for package, paths in _installed(scene.root).items():
            try:
                if TARGETS[scene.target].bits == 32:
                    raise NotSupported("what depends on the width of words in it is not known")
                native = owned_natives(scene, package, paths)
                _check_libraries(scene, native, paths)
                natives = Natives(native, self.group, host=scene.host, target=scene.target)
                for path in paths:
                    chosen.twins += _twins(scene, natives, path)
            except NotSupported as error:
                chosen.emulated[package] = error.message
                continue
            chosen.files |= natives.files
        return chosen


def _installed(root: Packages) -> dict[str, list[str]]:
    """Programs by package, of those that are there."""
    found: dict[str, list[str]] = {}
    for package in sorted(root.installed):
        name, _, number = package.partition("-")
        if name in _PROGRAMS and number.isdigit():
            paths = [f"usr/lib/llvm-{number}/bin/{program}" for program in _PROGRAMS[name]]
            found[package] = [path for path in paths if identity_of(root, path) is not None]
    return {package: paths for package, paths in found.items() if paths}


def _check_libraries(scene: Scene, native: Packages, paths: list[str]) -> None:
    from anyarch.emulation.accelerate.packages import is_same_source

    for name, version in libraries_of(scene.root, scene.target, paths).items():
        if _OWN.fullmatch(name) and not is_same_source(native.version(name), version):
            raise NotSupported(
                f"{name} {version}, but {native.version(name) or 'none'} of the native package"
            )


def _twins(scene: Scene, natives: Natives, path: str) -> list[Twin]:
    found = identity_of(scene.root, path)
    assert found is not None
    place = natives.program(path, path, texts={})
    name = path.rpartition("/")[2]
    allowed = conditions(scene.target, (EnvironmentRule("CCC_"), EnvironmentRule("LLVM_")))
    if name != "clang":
        questions = _LLD_REFUSED if name == "lld" else _QUESTIONS
        return [Twin(f"/{path}", place, (found,), allowed, refusals(questions))]
    # nothing can follow `--` as an option
    driver = (*refusals(_DRIVER_REFUSED), ArgumentRule("next", "--", "\1"))
    triple = _triple(scene, path)
    behind_driver = tuple(msgspec.structs.replace(one, first="-cc1") for one in allowed)
    return [
        Twin(f"/{path}", place, (found,), behind_driver, refusals(_CC1_REFUSED)),
        Twin(f"/{path}", place, (found,), allowed, driver, (f"--target={triple}",)),
    ]


def _triple(scene: Scene, path: str) -> str:
    """What the image's LLVM takes for its target when it is not told."""
    foreign = Natives(scene.root, "", host=scene.target, target=scene.target)
    libraries = foreign.libraries_of(path)
    found = {
        triple
        for soname, library in libraries.items()
        if soname.startswith("libLLVM")
        for triple in _TRIPLE.findall(read_file(scene.root, library))
    }
    if len(found) != 1:
        raise NotSupported(f"its target is not told as expected for {TARGETS[scene.target].debian}")
    return str(found.pop().decode())
