"""Static QEMU user-mode emulators on this machine, and how the kernel is told to use one.

An emulator must be static: it is started inside the step's root file system, where the host's libraries are
not. Nothing is executed to find one; its version is asked for only when a step is going to be emulated, and
kept.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Protocol

import msgspec

from anyarch.elf.header import identity_of, parse
from anyarch.sandbox.plan import Registration

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = [
    "PLATFORM_ARCHITECTURES",
    "QEMU_ARCHITECTURES",
    "Emulator",
    "Memo",
    "emulators_in",
    "find_emulator",
    "find_emulators",
    "registration",
]

# platform architecture → QEMU's name of it
QEMU_ARCHITECTURES = {
    "386": "i386",
    "amd64": "x86_64",
    "arm": "arm",
    "arm64": "aarch64",
    "loong64": "loongarch64",
    "mips": "mips",
    "mipsle": "mipsel",
    "mips64": "mips64",
    "mips64le": "mips64el",
    "ppc64": "ppc64",
    "ppc64le": "ppc64le",
    "riscv64": "riscv64",
    "s390x": "s390x",
}
PLATFORM_ARCHITECTURES = {qemu: platform for platform, qemu in QEMU_ARCHITECTURES.items()}
_DIRECTORIES = ("/usr/bin", "/usr/local/bin", "/usr/libexec/qemu-binfmt")
# P: the program keeps its argv[0] (QEMU is told by AT_FLAGS since 6.0); C: setuid programs work; F: the
# kernel opens QEMU now, so the step's root need not hold it.
_FLAGS = "PCF"


class Memo(Protocol):
    """Facts that stay true until the next boot or until a file changes; the caller keeps them somewhere."""

    def get(self, key: str) -> bytes | None: ...
    def set(self, key: str, value: bytes) -> None: ...


class Emulator(msgspec.Struct, frozen=True):
    """One QEMU program: `arch` is QEMU's own name (aarch64, x86_64 …), `path` where it lies."""

    arch: str
    path: str

    def version(self, memo: Memo | None = None) -> str:
        """What the program says of itself, such as `7.2.22 (Debian 1:7.2+dfsg-7)`; empty when it does not
        answer.
        """
        return self._fact("version", self._ask_version, memo)

    def digest(self, memo: Memo | None = None) -> str:
        """`sha256:…` of the program file; empty when it cannot be read."""
        return self._fact("digest", self._hash, memo)

    def _fact(self, name: str, find: Callable[[], str], memo: Memo | None) -> str:
        try:
            info = os.stat(self.path)
        except OSError:
            return ""
        key = f"emulator {name} {self.path} {info.st_ino} {info.st_size} {info.st_mtime_ns}"
        kept = memo.get(key) if memo is not None else None
        if kept is not None:
            return kept.decode()
        value = find()
        if memo is not None and value:
            memo.set(key, value.encode())
        return value

    def _ask_version(self) -> str:
        import subprocess

        try:
            done = subprocess.run([self.path, "--version"], capture_output=True, timeout=10, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return ""
        first = done.stdout.decode("utf-8", "replace").split("\n", 1)[0]
        return first.partition(" version ")[2].strip()

    def _hash(self) -> str:
        import hashlib

        try:
            with open(self.path, "rb") as file:
                return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
        except OSError:
            return ""


def find_emulators() -> dict[str, Emulator]:
    """All usable emulators by QEMU's architecture name."""
    found = ((arch, find_emulator(arch)) for arch in QEMU_ARCHITECTURES.values())
    return {arch: emulator for arch, emulator in found if emulator is not None}


def emulators_in(directory: str) -> dict[str, Emulator]:
    """The usable emulators of one directory by QEMU's architecture name."""
    directory = os.path.abspath(directory)
    found = {}
    for arch in QEMU_ARCHITECTURES.values():
        paths = (os.path.join(directory, name) for name in program_names(arch))
        path = next((path for path in paths if os.path.exists(path) and _is_static_program(path)), None)
        if path is not None:
            found[arch] = Emulator(arch, path)
    return found


def program_names(arch: str) -> tuple[str, str]:
    """What the emulator of a QEMU architecture is called."""
    return f"qemu-{arch}-static", f"qemu-{arch}"


def find_emulator(arch: str) -> Emulator | None:
    """The first static `qemu-ARCH-static` or `qemu-ARCH` in $ANYARCH_QEMU_DIR, PATH and the usual
    directories.
    """
    for path in _candidates(arch):
        if _is_static_program(path):
            return Emulator(arch, path)
    return None


def unusable_emulator(arch: str) -> str:
    """The path of an emulator that is there but needs libraries; empty when there is none."""
    return next((path for path in _candidates(arch) if os.access(path, os.X_OK)), "")


def registration(emulator: Emulator) -> Registration:
    """The binfmt_misc entry for all programs of its architecture."""
    magic, mask = magic_and_mask(emulator.arch)
    return Registration(f"qemu-{emulator.arch}", magic, mask, emulator.path, _FLAGS)


def magic_and_mask(arch: str) -> tuple[bytes, bytes]:
    """How ELF programs of a QEMU architecture begin: class, byte order and machine, executable or shared
    object.
    """
    identity = identity_of(PLATFORM_ARCHITECTURES[arch])
    assert identity is not None
    bits, order, machine = identity
    little = order == "little"
    magic = b"\x7fELF" + bytes([2 if bits == 64 else 1, 1 if little else 2, 1]) + bytes(9)
    magic += (2).to_bytes(2, "little" if little else "big") + machine.to_bytes(
        2, "little" if little else "big"
    )
    # any OS ABI and ABI version; e_type 2 or 3
    mask = b"\xff" * 7 + b"\x00\x00" + b"\xff" * 7 + (b"\xfe\xff" if little else b"\xff\xfe") + b"\xff\xff"
    return magic, mask


def _candidates(arch: str) -> Iterator[str]:
    own = os.environ.get("ANYARCH_QEMU_DIR")
    search = os.environ.get("PATH", "").split(os.pathsep)
    seen = set()
    for directory in (*((own,) if own else ()), *search, *_DIRECTORIES):
        if not directory.startswith("/") or directory in seen:
            continue
        seen.add(directory)
        for name in program_names(arch):
            path = os.path.join(directory, name)
            if os.path.exists(path):
                yield path


def _is_static_program(path: str) -> bool:
    if not os.access(path, os.X_OK):
        return False
    try:
        with open(path, "rb", buffering=0) as file:
            header = parse(file.read(4096))
    except OSError:
        return False
    return header is not None and header.is_program and not header.interpreter
