"""What is known of Alpine's everyday tools: which may have a twin, and when.

Most of them are one program, busybox, that is told by its name which one it is. What is twinned is a list of
names; all others (`uname`, `arch`, `od`, what asks for processes, changes users or sets the machine up) stay
emulated. That would be of no use where a shell runs them without executing anything, so busybox has to be
configured as Alpine does it. The same list of names serves for coreutils, which is one program there as well.

`apk` is emulated: it takes packages for the architecture that it was built for where `/etc/apk/arch` does not
say another, tells it (`apk --print-arch`), and runs other packages' scripts.

musl has one locale, whatever is asked for, and no settings of the machine in files but the loader's path.
"""

from __future__ import annotations

import itertools
import re
from typing import TYPE_CHECKING

from anyarch.emulation.accelerate.dispatcher import Condition, EnvironmentRule
from anyarch.emulation.accelerate.selection import TARGETS, TOLD_BY_MACHINE, allowed_programs
from anyarch.errors import NotSupported

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anyarch.emulation.accelerate.dispatcher import ArgumentRule
    from anyarch.emulation.accelerate.packages import Packages

__all__ = ["AlpineTools"]

_APPLETS = (
    "[ [[ ash awk base64 basename bunzip2 bzcat bzip2 cat chgrp chmod chown chroot cksum cmp comm cp cpio "
    "cut date dd df diff dirname dos2unix du echo egrep env expand expr factor fallocate false fgrep find "
    "flock fold fsync getopt grep groups gunzip gzip head id install link ln ls lzcat lzma md5sum mkdir "
    "mkfifo mknod mktemp mv nice nl nohup nproc paste printenv printf pwd readlink realpath rev rm rmdir "
    "run-parts sed setsid sh sha1sum sha256sum sha3sum sha512sum shred sleep sort split stat strings sum "
    "sync tac tail tar tee test timeout touch tr tree true truncate tty unexpand uniq unix2dos unlink "
    "unlzma unxz unzip usleep uudecode uuencode wc which whoami xargs xxd xzcat yes zcat"
)
# numbers have the size of `long` or `time_t`, of which the latter has 32 bits before musl 1.2
_NOT_32 = frozenset({"awk", "date", "touch"})
_MANY = {"busybox": "busybox", "coreutils": ""}
"""Programs that are many, and the name by which the first argument says which."""
_AS_DEBIAN = (
    *("bzip2", "dash", "diffutils", "findutils", "grep", "gzip", "m4", "make", "mawk", "ninja-build"),
    *("patch", "rsync", "sed", "tar", "unzip", "zip", "zstd"),
)
_BUILT_APART = {"env", "fmt", "sha512sum"}  # of coreutils
_TRIPLES = {
    "x86_64": "x86_64-alpine-linux-musl",
    "aarch64": "aarch64-alpine-linux-musl",
    "armv7": "armv7-alpine-linux-musleabihf",
    "armhf": "armv6-alpine-linux-musleabihf",
    "riscv64": "riscv64-alpine-linux-musl",
    "s390x": "s390x-alpine-linux-musl",
    "ppc64le": "powerpc64le-alpine-linux-musl",
}
_STANDALONE = ("FEATURE_SH_STANDALONE", "FEATURE_PREFER_APPLETS", "FEATURE_SH_NOFORK")
"""With these busybox does not execute a program of its own that another asks for, but is it at once."""
_PACKED, _MOST_PACKED = re.compile(rb"h[1-9]1AY&SY"), 16
_BANNER = re.compile(rb"(?<![ -~])BusyBox v[0-9.]+ \([^\0\n]{1,80}\)(?=\0)")

_RULES = (
    EnvironmentRule("LD_PRELOAD=", ("",)),
    EnvironmentRule("LD_LIBRARY_PATH=", ("",)),
    EnvironmentRule("LD_RUN_PATH=", ("",)),
    EnvironmentRule("LD_"),
    EnvironmentRule("MUSL_LOCPATH=", ("",)),
    EnvironmentRule("QEMU_"),
)


class AlpineTools:
    """Of a foreign and a native tree. Raises `NotSupported` for what is made of apk's packages and has
    another C library."""

    def __init__(self, target: Packages, native: Packages, architecture: str) -> None:
        self._architecture = architecture
        names = []
        for packages in (target, native):
            musl = packages.installed.get("musl")
            if musl is None:
                raise NotSupported("its packages are apk's, but its C library is not musl")
            if musl.architecture not in _TRIPLES:
                raise NotSupported(f"apk's architecture {musl.architecture or 'of musl'} is not known")
            names.append(musl.architecture)
        other, own = names
        self.names: Mapping[bytes, bytes] = {
            _TRIPLES[own].encode(): _TRIPLES[other].encode(),
            own.encode(): other.encode(),
        }
        """Texts that name this machine's architecture, and what the target has there."""

    def programs(self, package: str) -> frozenset[str]:
        """Names of a package's programs that may have a twin."""
        if self._architecture not in TARGETS:
            return frozenset()
        if package == "busybox":
            return frozenset({"busybox"})
        if package == "coreutils":
            return frozenset({"coreutils"})
        if package.startswith("coreutils-"):
            return allowed_programs("coreutils", self._architecture) & _BUILT_APART
        if package == "xz":
            return allowed_programs("xz-utils", self._architecture)
        return allowed_programs(package if package in _AS_DEBIAN else "", self._architecture)

    def arguments(self, program: str) -> tuple[ArgumentRule, ...]:
        """What its arguments may not be."""
        return TOLD_BY_MACHINE

    def conditions(self, program: str, theirs: bytes, ours: bytes) -> tuple[Condition, ...]:
        """When a program's twin may run; `theirs` is the foreign one, `ours` the native one."""
        if program not in _MANY:
            return (Condition((), _RULES),)
        wanted = set(_APPLETS.split())
        if program == "coreutils":
            wanted = set(allowed_programs("coreutils", self._architecture))
        else:
            _check_configuration(theirs, ours)
        if TARGETS[self._architecture].bits == 32:
            wanted -= _NOT_32
        names = [name for name in sorted(wanted) if _has_name(theirs, name) and _has_name(ours, name)]
        if not names:
            raise NotSupported("which programs it is cannot be told")
        return (Condition((), _RULES, names=tuple(names), wrapper=_MANY[program]),)

    def texts(self, program: str, theirs: bytes, ours: bytes) -> dict[bytes, bytes] | None:
        """What in the native program becomes that of the foreign one; None for the architecture's names. Of
        busybox it is the time when it was built, told in every message on its use: what names the
        architecture there is the kernel's answer, and asked for by none of the programs of the list."""
        if program != "busybox":
            return None
        own, other = (sorted(set(_BANNER.findall(raw))) for raw in (ours, theirs))
        if len(own) != 1 or len(other) != 1:
            raise NotSupported("it tells its version in another way")
        return {own[0]: other[0]} if own != other else {}


def _has_name(raw: bytes, name: str) -> bool:
    return b"\0" + name.encode() + b"\0" in raw


def _check_configuration(theirs: bytes, ours: bytes) -> None:
    """Both builds of busybox are the same, and run no program without executing it. `NotSupported`."""
    own, other = _configuration(ours), _configuration(theirs)
    if not own or own != other:
        raise NotSupported(
            "its configuration is not that of the native one" if own else "its configuration is not known"
        )
    for name in _STANDALONE:
        if f"CONFIG_{name}=y" in own:
            raise NotSupported(f"its shell is every other program too ({name})")


def _configuration(raw: bytes) -> frozenset[str]:
    """What `bbconfig` prints: it is in busybox as bzip2 packs it, without the first two bytes, and so are the
    texts on use and scripts."""
    import bz2

    for match in itertools.islice(_PACKED.finditer(raw), _MOST_PACKED):
        try:
            text = bz2.BZ2Decompressor().decompress(b"BZ" + raw[match.start() :], 1 << 20)
        except (OSError, ValueError):
            continue
        if text.startswith(b"CONFIG_"):
            return frozenset(text.decode("utf-8", "replace").splitlines())
    return frozenset()
