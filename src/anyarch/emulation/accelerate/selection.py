"""Which programs may have a native twin, and what stands in its way at the moment it is asked for.

A list of what is allowed, because all else is not known to do the same. Left out on purpose: what reveals the
architecture or loads its libraries (bash, uname, perl, python, ldd, getconf …), what computes with
`long double`, whose precision is another on each architecture (seq, printf, numfmt, sort -g), what writes
numbers in the machine's byte order (od, msgfmt), what lives by LD_PRELOAD (stdbuf), what reads records of
login sessions, and what changes its user.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from anyarch.emulation.accelerate.dispatcher import Condition, EnvironmentRule, refusals

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anyarch.emulation.accelerate.dispatcher import ArgumentRule

__all__ = [
    "NATIVE_ONLY",
    "TARGETS",
    "TOLD_BY_MACHINE",
    "DebianTools",
    "Target",
    "allowed_programs",
    "arguments_of",
    "conditions",
    "native_texts",
]


class Target(msgspec.Struct, frozen=True):
    """A platform architecture as Debian, its paths and GNU call it."""

    debian: str
    multiarch: str
    triple: str
    bits: int = 64
    is_little: bool = True


TARGETS = {
    "amd64": Target("amd64", "x86_64-linux-gnu", "x86_64-pc-linux-gnu"),
    "arm64": Target("arm64", "aarch64-linux-gnu", "aarch64-unknown-linux-gnu"),
    "arm": Target("armhf", "arm-linux-gnueabihf", "arm-unknown-linux-gnueabihf", bits=32),
    "riscv64": Target("riscv64", "riscv64-linux-gnu", "riscv64-unknown-linux-gnu"),
    "s390x": Target("s390x", "s390x-linux-gnu", "s390x-ibm-linux-gnu", is_little=False),
    "ppc64le": Target("ppc64el", "powerpc64le-linux-gnu", "powerpc64le-unknown-linux-gnu"),
}

_COREUTILS = (
    "[ b2sum base32 base64 basename basenc cat chgrp chmod chown chroot cksum comm cp csplit cut date dd df "
    "dircolors dirname du echo env expand expr false fmt fold groups head id install join link ln logname ls "
    "md5sum mkdir mkfifo mknod mktemp mv nice nl nohup nproc paste pathchk pr pwd readlink realpath rm rmdir "
    "sha1sum sha224sum sha256sum sha384sum sha512sum shred sleep split stat sum sync tac tail tee test "
    "timeout touch tr true truncate tsort tty unexpand uniq unlink vdir wc whoami yes dir"
)
_PROGRAMS = {
    "apt": "http https store gpgv copy file rred",
    "bzip2": "bzip2 bunzip2 bzcat bzip2recover",
    "coreutils": _COREUTILS,
    "dash": "dash sh",
    "debianutils": "run-parts tempfile ischroot",
    "diffutils": "cmp diff diff3 sdiff",
    "dpkg": (
        "dpkg dpkg-deb dpkg-divert dpkg-query dpkg-split dpkg-statoverride dpkg-trigger update-alternatives"
    ),
    "findutils": "find xargs",
    "gpgv": "gpgv",
    "grep": "grep egrep fgrep",
    "gzip": "gzip",
    "m4": "m4",
    "make": "make make-first-existing-target gmake",
    "mawk": "mawk",
    "ninja-build": "ninja",
    "patch": "patch",
    "rsync": "rsync",
    "sed": "sed",
    "tar": "tar",
    "unzip": "unzip funzip",
    "xz-utils": "xz xzdec lzmainfo",
    "zip": "zip",
    "zstd": "zstd",
}
# time_t has 32 bits there on some releases, and mawk's numbers have those of `long`
_NOT_32 = frozenset({"mawk", "date", "touch"})
# numbers as bytes, hashes of numbers
_NOT_BIG = frozenset({"mawk"})
# its matcher depends on vector instructions: small inputs compress to other bytes
_SIMD_ONLY = frozenset({"zstd"})
_SIMD = frozenset({"amd64", "arm64"})

NATIVE_ONLY = frozenset({("apt", "libseccomp.so.2")})
"""Packages, and libraries that only some architectures' programs of them load, and which do not matter: apt
filters system calls only where its configuration asks for it (`APT::Sandbox::Seccomp`)."""

# on 32 bits its output depends on the memory that a process can have
_BUILDS = refusals(("-b", "--build"))


TOLD_BY_MACHINE = refusals(("/proc/cpuinfo", "/proc/self/", "/proc/thread-self/", "/proc/net/route"))
"""Files that QEMU shows an emulated program in another form."""


def allowed_programs(package: str, target: str) -> frozenset[str]:
    """Names of the programs of a package that may have a twin on a target architecture."""
    names = frozenset(_PROGRAMS.get(package, "").split())
    found = TARGETS.get(target)
    if found is None:
        return frozenset()
    if found.bits == 32:
        names -= _NOT_32
    if not found.is_little:
        names -= _NOT_BIG
    if target not in _SIMD:
        names -= _SIMD_ONLY
    return names


def arguments_of(program: str, target: str) -> tuple[ArgumentRule, ...]:
    """What a tool's arguments may not be."""
    return _BUILDS if program == "dpkg-deb" and TARGETS[target].bits == 32 else ()


def conditions(target: str, further: tuple[EnvironmentRule, ...] = ()) -> tuple[Condition, ...]:
    """What the environment of a twin may be. Libraries that are to be loaded before others are foreign;
    compiled locales have a byte order, and only those that the C library knows by itself are the same
    (LC_ALL outdoes all other names); settings for QEMU are for QEMU."""
    plain: tuple[str, ...] = ("C", "POSIX")
    if TARGETS[target].is_little:
        plain += ("C.UTF-8", "C.utf8")
    rules = (
        EnvironmentRule("LD_PRELOAD=", ("",)),
        EnvironmentRule("LD_LIBRARY_PATH=", ("",)),
        EnvironmentRule("LD_RUN_PATH=", ("",)),
        EnvironmentRule("LD_"),
        EnvironmentRule("GCONV_PATH="),
        EnvironmentRule("LOCPATH="),
        EnvironmentRule("QEMU_"),
        *further,
    )
    names = ("LANG", "LC_ALL", "LC_CTYPE", "LC_COLLATE", "LC_MESSAGES", "LC_NUMERIC", "LC_TIME")
    locales = (*(EnvironmentRule(f"{name}=", ("", *plain)) for name in names), EnvironmentRule("LC_"))
    return (
        Condition((), (*rules, *locales)),
        Condition(("LC_ALL=",), (*rules, EnvironmentRule("LC_ALL=", plain))),
    )


def native_texts(host: str, target: str) -> Mapping[bytes, bytes]:
    """Texts in programs of `host` that name its architecture, and what those of `target` have there."""
    own, other = TARGETS[host], TARGETS[target]
    return {
        own.triple.encode(): other.triple.encode(),
        own.multiarch.encode(): other.multiarch.encode(),
        own.debian.encode(): other.debian.encode(),
    }


class DebianTools:
    """The tools of Debian and Ubuntu: what `choose_tools` asks."""

    def __init__(self, host: str, target: str) -> None:
        self._target = target
        self.names = native_texts(host, target)
        self._conditions = conditions(target)

    def programs(self, package: str) -> frozenset[str]:
        """Names of a package's programs that may have a twin."""
        return allowed_programs(package, self._target)

    def arguments(self, program: str) -> tuple[ArgumentRule, ...]:
        """What its arguments may not be."""
        return (*arguments_of(program, self._target), *TOLD_BY_MACHINE)

    def conditions(self, program: str, theirs: bytes, ours: bytes) -> tuple[Condition, ...]:
        """When a program's twin may run."""
        return self._conditions

    def texts(self, program: str, theirs: bytes, ours: bytes) -> dict[bytes, bytes] | None:
        """What in the native program becomes that of the foreign one; None for the architecture's names."""
        return None
