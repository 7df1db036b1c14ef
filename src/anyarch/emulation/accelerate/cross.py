"""Twins of compilers: those of a distribution's cross packages, made to be what the native ones are.

A cross compiler differs from the native one of the same version in where it looks for headers, libraries and
its own parts, in the list of default directories, and in the distribution's revision, which it writes into
every object. All of these are texts and one small table in its data, and are set to those of the compiler
that it stands for. Configuration options that change code must be equal.
"""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from anyarch.emulation.accelerate.binutils import (
    PROGRAMS,
    SAME_BYTECODE,
    Binutils,
    foreign_plugin,
    library_changes,
    owner_of,
)
from anyarch.emulation.accelerate.configuration import (
    check_configuration,
    check_specs,
    offloading_differs,
    offloading_rules,
)
from anyarch.emulation.accelerate.dispatcher import EnvironmentRule, Twin, exemptions, refusals
from anyarch.emulation.accelerate.evaluation import evaluates_as_native, in_native_order
from anyarch.emulation.accelerate.libraries import Libraries
from anyarch.emulation.accelerate.likeness import native_driver, native_linker_name, native_table
from anyarch.emulation.accelerate.natives import Natives, read_file
from anyarch.emulation.accelerate.packages import is_same_source
from anyarch.emulation.accelerate.selection import TARGETS, conditions
from anyarch.emulation.accelerate.twins import Chosen, identity_of
from anyarch.errors import NotSupported

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from anyarch.elf.edit import Program
    from anyarch.emulation.accelerate.dispatcher import ArgumentRule, Identity
    from anyarch.emulation.accelerate.packages import Packages

__all__ = ["choose_compilers", "default_compiler", "host_packages", "state_of_compilers", "target_packages"]

_KNOWN = range(11, 17)
"""Major versions of GCC whose tables and texts were looked into."""

_LIBRARIES = (
    *(
        "libc6",
        "libgcc-s1",
        "libgmp10",
        "libisl23",
        "libmpc3",
        "libmpfr6",
        "libstdc++6",
        "libzstd1",
        "zlib1g",
    ),
)
_OPTIONAL = (
    "libbinutils",
    "libctf0",
    "libctf-nobfd0",
    "libjansson4",
    "libsframe1",
    "libsframe2",
    "libsframe3",
)
_LTO = ("lto1", "lto-wrapper")
_PARTS = ("cc1", "cc1plus", "collect2", *_LTO)
_IDENT = re.compile(rb"\((?:Debian|Ubuntu) [^)\0]{1,60}\) (?=\0)")
# fixes that a distribution has put into one revision and that change code: what asks for it is emulated
_KNOWN_FIXES = {
    # CVE-2023-4039: the frame of functions with stack protector, since 12.2.0-14+deb12u1
    ("12", "arm64", "+deb12u1"): ("-fstack-protector",),
}
# what tells how it was configured, a plug-in, a choice by this machine's CPU, other directories, a
# compressor's level
_DRIVER_REFUSED: tuple[str, ...] = (
    *("-v", "--verb", "-Wl,-v", "-Wl,--v", "-Wl,--help", "-dumps", "-print-sysroot", "--print-sysroot"),
    *("-###", "-Q", "-march=native", "-mcpu=native", "-mtune=native", "-fplugin", "-specs", "--specs", "-B"),
    *("-wrapper", "--sysroot", "-isysroot", "-flto-c", "-fuse-ld", "-save-temps", "-no-canonical-prefixes"),
    *("-pass-exit-codes", "-time", "-fprofile", "--coverage", "-fdump", "-static-libasan", "-iprefix"),
    *("-ftime-report", "-fverbose-asm"),
)
_CC1_REFUSED: tuple[str, ...] = (
    *("-v", "-fplugin", "-flto-c", "-isysroot", "-iprefix", "-fdump", "-fprofile", "-fverbose-asm"),
    *("-ftime-report", "--help", "-fpch", "--output-pch", "-Winvalid-pch"),
    # the order of its data is that in which arguments of a function were evaluated when GCC was compiled
    "-fsanitize=",
    # conversions are modules that the C library loads, which a step's root has for its own architecture
    *("-finput-charset", "-fexec-charset", "-fwide-exec-charset"),
)
_CC1_KNOWN = (
    *("-fsanitize=address", "-fsanitize=thread", "-fsanitize=leak"),
    *("-finput-charset=UTF-8", "-finput-charset=utf-8", "-fexec-charset=UTF-8", "-fexec-charset=utf-8"),
)


def default_compiler(names: Iterable[str], target: str = "") -> str:
    """The version (`12`) of the newest GCC among names of packages, of a cross compiler with `target`. Raises
    `NotSupported`."""
    suffix = re.escape(f"-{TARGETS[target].multiarch}") if target else ""
    found = {int(match[1]) for name in names if (match := re.fullmatch(rf"gcc-([0-9]+){suffix}", name))}
    if not found:
        raise NotSupported(
            f"there is no {'cross ' if target else ''}compiler gcc-N{suffix} among the packages"
        )
    if max(found) not in _KNOWN:
        raise NotSupported(f"GCC {max(found)} is none of those that are known ({_KNOWN[0]} to {_KNOWN[-1]})")
    return str(max(found))


def host_packages(gcc: str, host: str, target: str) -> tuple[list[str], list[str]]:
    """What to fetch for this machine (`NAME:ARCH`), and what as far as it exists."""
    triplet = TARGETS[target].multiarch
    names = [f"{each}-{gcc}-{triplet}" for each in ("cpp", "gcc", "g++")]
    own = TARGETS[host].debian
    return (
        [f"{name}:{own}" for name in (*names, f"binutils-{triplet}", *_LIBRARIES, "make")],
        [f"{name}:{own}" for name in _OPTIONAL],
    )


def target_packages(gcc: str, target: str) -> tuple[list[str], list[str]]:
    """What to fetch for the target: the programs as a step would install them."""
    triplet = TARGETS[target].multiarch
    other = TARGETS[target].debian
    names = [f"{each}-{gcc}" for each in ("cpp", "gcc", "g++")]
    optional = [f"{each}-{gcc}-{triplet}" for each in ("cpp", "gcc", "g++")]
    needed = [*names, f"binutils-{triplet}", "make"]
    return [f"{name}:{other}" for name in needed], [f"{name}:{other}" for name in optional]


def choose_compilers(
    targets: Sequence[Packages], native: Packages, group: str, *, host: str, target: str, gcc: str
) -> Chosen:
    """Twins of the compiler and binutils. `targets` are the trees that may have them: the step's root and the
    packages that it would install; a program has an identity in each."""
    changes = library_changes(native, target)
    natives = Natives(native, group, host=host, target=target, library_changes=changes)
    chosen = Chosen([], natives.files, {})
    triplet = TARGETS[target].multiarch
    rules = conditions(target)
    binutils = Binutils(targets, natives, "p", target=target, gcc=gcc, conditions=rules)
    driver_rules = conditions(target, _driver_variables(triplet, gcc))
    drivers, utilities, parts = _programs(triplet, gcc)
    terms = dict.fromkeys(drivers, (_DRIVER_REFUSED, driver_rules))
    terms |= dict.fromkeys(parts, (_CC1_REFUSED, rules))
    bytecode = _has_same_bytecode(targets[0], native, target)
    seen: set[tuple[str, Identity]] = set()
    for path in (*drivers, *utilities, *parts):
        if not bytecode and path.endswith(_LTO):
            continue
        for packages in targets:
            found = identity_of(packages, path)
            if found is None or (path, found) in seen:
                continue
            seen.add((path, found))
            try:
                owner = owner_of(packages, path, triplet, gcc)
                if path in utilities:
                    chosen.twins += binutils.twins(packages, path, found)
                    continue
                own = path.replace("/gcc/", "/gcc-cross/")
                _check_version(packages, owner, native, own, triplet, gcc)
                refused, allowed = terms[path]
                refused = refused if bytecode else (*refused, "-flto")
                twin = _compiler(packages, natives, path, own, gcc, target, found, refused)
                chosen.twins.append(msgspec.structs.replace(twin, conditions=allowed))
            except NotSupported as error:
                chosen.emulated[f"/{path}"] = error.message
    return chosen


def _programs(triplet: str, gcc: str) -> tuple[list[str], list[str], list[str]]:
    """Paths of drivers, of binutils, and of what a driver starts."""
    return (
        [f"usr/bin/{triplet}-{name}-{gcc}" for name in ("gcc", "g++", "cpp")],
        [f"usr/bin/{triplet}-{name}" for name in PROGRAMS],
        [
            f"{directory}/gcc/{triplet}/{gcc}/{name}"
            for directory in ("usr/lib", "usr/libexec")
            for name in _PARTS
        ],
    )


def _has_same_bytecode(root: Packages, native: Packages, target: str) -> bool:
    """Whether native compilers write and read what emulated ones do for optimizing at link time. It has
    numbers in the byte order of the compiler's machine, is compressed, and of C++ depends on how wide
    that machine's words are, too."""
    own = root.version("libzstd1")
    if target not in SAME_BYTECODE or (own and not is_same_source(own, native.version("libzstd1"))):
        return False
    try:
        if own:
            Libraries(root, target).check("libzstd.so.1", "libzstd1")
    except NotSupported:
        return False
    return True


def _driver_variables(triplet: str, gcc: str) -> tuple[EnvironmentRule, ...]:
    """A driver that the linker's plug-in starts finds its programs by what the first one has set."""
    ends = f"/usr/lib/gcc/{triplet}/{gcc}/:/usr/lib/gcc/{triplet}/"
    own = tuple(
        f"{directory}/{gcc}/:{directory}/{gcc}/:{directory}/:{ends}"
        for directory in (f"/usr/{name}/gcc/{triplet}" for name in ("lib", "libexec"))
    )
    names = ("GCC_EXEC_PREFIX", "GCC_COMPARE_DEBUG", "COLLECT_NO_DEMANGLE")
    return (
        EnvironmentRule("COMPILER_PATH=", ("", *own)),
        *(EnvironmentRule(f"{name}=", ("",)) for name in names),
    )


def state_of_compilers(root: Packages, archive: Packages, *, target: str, gcc: str) -> bytes:
    """A digest of what a root has that its distribution's archive has not in the same form, and of whether
    GCC's plug-in is its package's."""
    triplet = TARGETS[target].multiarch
    paths = [path for kind in _programs(triplet, gcc) for path in kind]
    found = [(path, identity_of(root, path)) for path in paths]
    other = [one for one in found if one[1] is not None and one[1] != identity_of(archive, one[0])]
    return repr((other, foreign_plugin(root, triplet, gcc))).encode()


def _check_version(
    packages: Packages, owner: str, native: Packages, own: str, triplet: str, gcc: str
) -> None:
    """Those parts that do not tell their version have that of their packages."""
    theirs, ours = packages.version(owner), native.version(owner_of(native, own, triplet, gcc))
    if theirs.rpartition("-")[0] != ours.rpartition("-")[0]:
        raise NotSupported(f"its package is {theirs}, the native one {ours}")


def _compiler(
    packages: Packages,
    natives: Natives,
    path: str,
    own: str,
    gcc: str,
    target: str,
    found: Identity,
    refused: Sequence[str],
) -> Twin:
    theirs, ours = read_file(packages, path), read_file(natives.packages, own)
    name = path.rpartition("/")[2]
    texts: dict[bytes, bytes] = {}
    known: tuple[ArgumentRule, ...] = ()
    if name not in ("collect2", "lto-wrapper"):
        ident, cross_ident = _one(_IDENT, theirs, path), _one(_IDENT, ours, own)
        check_configuration(theirs, ours, path)
        if name not in ("cc1", "cc1plus", "lto1"):
            check_specs(theirs, ours, path)
        if ident != cross_ident:
            texts[cross_ident] = ident
            if ident.split()[1].split(b"-")[0].rstrip(b")") != cross_ident.split()[1].split(b"-")[0].rstrip(
                b")"
            ):
                raise NotSupported(
                    f"it is {ident.decode().strip()}, the native one {cross_ident.decode().strip()}"
                )
            for (version, architecture, mark), options in _KNOWN_FIXES.items():
                fixed = mark.encode() in ident and mark.encode() not in cross_ident
                if (version, architecture) != (gcc, target) or not fixed:
                    continue
                if name == "lto1":  # what functions were compiled with is in the objects that it reads
                    raise NotSupported(f"it has a fix ({mark}) that the native one has not")
                refused = (*refused, *options) if name.startswith("cc1") else refused
        if offloading_differs(theirs, ours):
            known = offloading_rules(TARGETS[target].multiarch, gcc)
            if name not in _PARTS:
                refused = (*refused, "-flto")  # it adds an option of offloading for -lm and C++
            elif name == "lto1":
                known = (*exemptions(("-foffload-options=-l_GCC_m",)), *known)  # told in debug information
    texts |= _directories(ours, target)
    fixes: list[Callable[[Program], None]] = []
    if name in ("cc1", "cc1plus", "lto1") and not evaluates_as_native(host=natives.host, target=target):
        fixes.append(in_native_order)
    if name in ("cc1", "cc1plus"):
        fixes.append(native_table(TARGETS[target].multiarch, gcc))
    elif name not in _PARTS:
        fixes.append(native_driver)
    elif name == "collect2" and natives.host == "amd64":
        fixes.append(partial(native_linker_name, triplet=TARGETS[target].multiarch))
    place = natives.program(own, f"{path}", texts=texts, changes=fixes)
    if name.startswith("cc1"):
        known = (*known, *exemptions(_CC1_KNOWN))
    return Twin(f"/{path}", place, (found,), arguments=(*known, *refusals(refused)), expands=True)


def _one(pattern: re.Pattern[bytes], raw: bytes, path: str) -> bytes:
    found = set(pattern.findall(raw))
    if len(found) != 1:
        raise NotSupported(f"/{path} does not tell its version as expected")
    return bytes(found.pop())


def _directories(raw: bytes, target: str) -> dict[bytes, bytes]:
    """Where the native compiler looks, for each place where the cross compiler does."""
    triplet = TARGETS[target].multiarch.encode()
    found: dict[bytes, bytes] = {}
    for text in set(re.findall(rb"(?<![ -~])(?:/usr/lib(?:exec)?/)?gcc-cross[!-~]*(?=\0)", raw)):
        new = text.replace(b"gcc-cross", b"gcc")
        new = new.replace(b"/../" + triplet + b"/include/c++/", b"/../include/c++/")
        if re.search(rb"/include/c\+\+/[0-9]+/" + triplet + rb"$", new):
            number = new.split(b"/c++/")[1].split(b"/")[0]
            new = new[: new.index(b"/include/c++/")] + b"/include/" + triplet + b"/c++/" + number
        new = new.replace(b"/../" + triplet + b"/libc++_include", b"/../libc++_include")
        if new.endswith(b"/../" + triplet + b"/include"):
            new = b"/usr/local/include"  # leads nowhere on a native system
        found[text] = new
    return found
