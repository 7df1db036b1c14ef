"""What this machine can run: by its CPU and kernel, and through handlers registered with the host's
binfmt_misc.

Facts are found out when they are first needed, by trying where that is possible. Trials that cost something
are kept in a memo of the caller, valid until the next boot.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Protocol

import msgspec

from anyarch.emulation.emulator import (
    QEMU_ARCHITECTURES,
    emulators_in,
    find_emulator,
    magic_and_mask,
    registration,
)
from anyarch.errors import SandboxError
from anyarch.spec.platform import Platform, host_platform

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from anyarch.emulation.emulator import Emulator, Memo
    from anyarch.sandbox.plan import Registration

__all__ = ["Handler", "Host", "Namespaces", "amd64_level", "parse_handler", "read_handlers"]

_BINFMT_MISC = "/proc/sys/fs/binfmt_misc"

# CPU flags of /proc/cpuinfo that each level of the x86-64 psABI adds
_AMD64_LEVELS = (
    (2, {"cx16", "lahf_lm", "popcnt", "pni", "sse4_1", "sse4_2", "ssse3"}),
    (3, {"abm", "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe", "xsave"}),
    (4, {"avx512bw", "avx512cd", "avx512dq", "avx512f", "avx512vl"}),
)
# what a 64 bit kernel may run besides its own programs
_SECONDARY = {"amd64": "386", "arm64": "arm"}

# hwcaps of /proc/cpuinfo (the kernel's arm64/elf_hwcaps.rst) that each version of the architecture adds;
# 9.0 has all of 8.5
_ARM64_VERSIONS = (
    ("v8.1", {"asimdrdm", "atomics", "crc32"}),
    ("v8.2", {"dcpop"}),
    ("v8.3", {"fcma", "jscvt", "lrcpc", "paca"}),
    ("v8.4", {"asimddp", "dit", "flagm", "ilrcpc", "uscat"}),
    ("v8.5", {"flagm2", "frint", "sb"}),
    ("v9", {"sve2"}),
)


class Handler(msgspec.Struct, frozen=True):
    """An entry of the host's binfmt_misc that serves programs of the QEMU architecture `arch`."""

    arch: str
    name: str
    interpreter: str
    flags: str

    @property
    def is_fixed(self) -> bool:
        """Flag F: the kernel holds the interpreter open, so it works in any root file system."""
        return "F" in self.flags


class Namespaces(Protocol):
    """What private binfmt_misc is tried with: `anyarch.sandbox.executor.Executor`."""

    def check_emulators(self, emulators: Sequence[Registration]) -> None:
        """Raises `SandboxError` naming what refused."""


class Host:
    """This machine. The arguments replace what would be found out, for tests and for remote nodes."""

    def __init__(
        self,
        *,
        memo: Memo | None = None,
        executor: Namespaces | None = None,
        platform: Platform | None = None,
        binfmt_misc: str = _BINFMT_MISC,
        cpu_flags: Callable[[], frozenset[str]] | None = None,
        runs: Callable[[str], bool] | None = None,
        emulator: Callable[[str], Emulator | None] = find_emulator,
        directory: str = "",
    ) -> None:
        """`executor` is what private binfmt_misc is tried with; without one it is taken to work. With a
        `directory` its emulators are the only ones there are.
        """
        self.memo = memo
        self.platform = platform or host_platform()
        self._executor = executor
        self.binfmt_misc = binfmt_misc
        self._cpu_flags = cpu_flags or _cpu_flags
        self._runs = runs or _runs
        self.directory = directory
        self._find_emulator = emulators_in(directory).get if directory else emulator
        self._handlers: dict[str, list[Handler]] | None = None
        self._facts: dict[str, str] = {}
        self._emulators: dict[str, Emulator | None] = {}

    def is_native(self, platform: Platform) -> bool:
        """Whether the kernel runs programs of `platform` by itself."""
        own = self.platform
        if platform.os != own.os:
            return False
        if platform.architecture == own.architecture:
            return self._has_variant(platform.variant)
        if platform.architecture != _SECONDARY.get(own.architecture):
            return False
        if self.handlers(QEMU_ARCHITECTURES[platform.architecture]):
            return False  # the kernel asks the handler first
        return self._fact(f"runs {platform.architecture}", lambda: self._runs(platform.architecture))

    def native_platforms(self) -> list[Platform]:
        """All that `is_native` agrees to, best first."""
        own = self.platform
        names = [own.architecture]
        variants = {"amd64": ("v4", "v3", "v2", ""), "arm": ("v8", "v7", "v6", "v5"), "arm64": ("v9", "")}
        if own.architecture in _SECONDARY:
            names.append(_SECONDARY[own.architecture])
        found = [Platform(own.os, name, variant) for name in names for variant in variants.get(name, ("",))]
        return [platform for platform in found if self.is_native(platform)]

    def amd64_level(self) -> int:
        """The highest level (1 to 4) of the x86-64 psABI that the CPU has."""
        return int(self._text("amd64 level", lambda: str(amd64_level(self._cpu_flags()))))

    def handlers(self, arch: str) -> list[Handler]:
        """What the host has registered for a QEMU architecture and enabled; those with flag F first."""
        if self._handlers is None:
            self._handlers = read_handlers(self.binfmt_misc)
        return self._handlers.get(arch, [])

    def forget_handlers(self) -> None:
        """Something was registered: look again."""
        self._handlers = None

    def emulator(self, arch: str) -> Emulator | None:
        """The static emulator of a QEMU architecture."""
        if arch not in self._emulators:
            self._emulators[arch] = self._find_emulator(arch)
        return self._emulators[arch]

    def is_chosen(self, emulator: Emulator) -> bool:
        """Whether the user has named the directory that it lies in: no other one is to take its place."""
        named = os.environ.get("ANYARCH_QEMU_DIR", "")
        return bool(self.directory) or (bool(named) and os.path.dirname(emulator.path) == named.rstrip("/"))

    def private_refusal(self, emulator: Emulator) -> str:
        """Why a private binfmt_misc cannot be had here (which gate refused); empty when it can."""
        executor = self._executor
        if executor is None:
            return ""

        def attempt() -> str:
            try:
                executor.check_emulators((registration(emulator),))
            except SandboxError as error:
                return error.message + (f" ({error.hint})" if error.hint else "")
            return ""

        # Only that it works is kept: whoever opens the gate that refused wants to be believed at once.
        return self._text(f"private binfmt_misc {os.geteuid()}", attempt, keep=lambda refusal: not refusal)

    def _has_variant(self, variant: str) -> bool:
        if self.platform.architecture == "amd64" and variant:
            return variant[1:].isdecimal() and int(variant[1:]) <= self.amd64_level()
        if self.platform.architecture == "arm64" and variant:
            return variant in arm64_versions(self._cpu_flags())
        if self.platform.architecture == "arm":
            return variant <= (self.platform.variant or "v7")
        return True

    def _fact(self, name: str, find: Callable[[], bool]) -> bool:
        return self._text(name, lambda: "yes" if find() else "no") == "yes"

    def _text(
        self, name: str, find: Callable[[], str], *, keep: Callable[[str], bool] = lambda value: True
    ) -> str:
        if name in self._facts:
            return self._facts[name]
        key = f"host {name} {_boot_id()}" if self.memo is not None else ""
        kept = self.memo.get(key) if self.memo is not None else None
        value = find() if kept is None else kept.decode()
        if kept is None and self.memo is not None and keep(value):
            self.memo.set(key, value.encode())
        self._facts[name] = value
        return value


def amd64_level(flags: frozenset[str]) -> int:
    """The level of the x86-64 psABI for a set of /proc/cpuinfo flags."""
    level = 1
    for number, needed in _AMD64_LEVELS:
        if not needed <= flags:
            break
        level = number
    return level


def arm64_versions(flags: frozenset[str]) -> list[str]:
    """The versions of the architecture above v8 that a CPU with these /proc/cpuinfo features has."""
    found = []
    for name, needed in _ARM64_VERSIONS:
        if not needed <= flags:
            break
        found.append(name)
    return found


def parse_handler(name: str, text: str) -> Handler | None:
    """An entry file of binfmt_misc; None when it is disabled or for no ELF architecture that we know."""
    lines = text.splitlines()
    fields = dict(line.split(" ", 1) for line in lines[1:] if " " in line)
    if not lines or lines[0] != "enabled" or "magic" not in fields:
        return None
    try:
        magic = bytes.fromhex(fields["magic"])
        mask = bytes.fromhex(fields.get("mask", "ff" * len(magic)))
        offset = int(fields.get("offset", "0"))
    except ValueError:
        return None
    if len(mask) != len(magic) or not magic:
        return None
    for arch in QEMU_ARCHITECTURES.values():
        head = magic_and_mask(arch)[0]
        part = head[offset : offset + len(magic)]
        if len(part) < len(magic):
            continue
        if all(byte & bit == wanted & bit for byte, wanted, bit in zip(part, magic, mask, strict=True)):
            if offset == 0 and len(magic) < 20:
                continue  # too short to tell architectures apart
            return Handler(arch, name, fields.get("interpreter", ""), fields.get("flags:", "").strip())
    return None


def read_handlers(directory: str) -> dict[str, list[Handler]]:
    """The enabled handlers of a binfmt_misc by QEMU architecture, those with flag F first."""
    found: dict[str, list[Handler]] = {}
    try:
        names = sorted(set(os.listdir(directory)) - {"register", "status"})
        with open(os.path.join(directory, "status")) as file:
            if names and file.read().strip() != "enabled":
                return found
    except OSError:
        return found
    for name in names:
        try:
            with open(os.path.join(directory, name)) as file:
                handler = parse_handler(name, file.read())
        except OSError:
            continue
        if handler is not None:
            found.setdefault(handler.arch, []).append(handler)
    for handlers in found.values():
        handlers.sort(key=lambda handler: not handler.is_fixed)
    return found


def _cpu_flags() -> frozenset[str]:
    """Of the first CPU; reading all of a large machine would take milliseconds."""
    with open("/proc/cpuinfo", "rb", buffering=0) as file:
        text = file.read(8192).decode("ascii", "replace")
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):  # x86, arm64
            return frozenset(value.split())
    return frozenset()


def _runs(architecture: str) -> bool:
    """Whether the kernel executes a program of this architecture, by executing one."""
    from anyarch.elf.tiny import tiny_executable

    wanted = 42
    fd = os.memfd_create("probe")
    try:
        os.write(fd, tiny_executable(architecture, wanted))
        pid = os.posix_spawn(f"/proc/self/fd/{fd}", ["probe"], {})
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == wanted
    except OSError:
        return False
    finally:
        os.close(fd)


def _boot_id() -> str:
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip()
    except OSError:
        return ""
