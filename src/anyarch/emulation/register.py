"""Registering emulators with the machine's binfmt_misc, for programs beside ours: docker, podman, chroot.

Builds of ours need none of this where a private binfmt_misc can be had. Entries are told apart by name: ours
begin with `PREFIX`, and no other one is ever changed.
"""

from __future__ import annotations

import errno
import os
import re
from typing import TYPE_CHECKING

import msgspec

from anyarch.emulation.emulator import QEMU_ARCHITECTURES, registration
from anyarch.emulation.host import read_handlers
from anyarch.errors import SandboxError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from anyarch.emulation.emulator import Emulator
    from anyarch.emulation.host import Handler
    from anyarch.sandbox.plan import Registration

__all__ = [
    "BINFMT_MISC",
    "PREFIX",
    "Change",
    "architectures",
    "ensure_mounted",
    "install",
    "register_line",
    "uninstall",
    "works",
]

BINFMT_MISC = "/proc/sys/fs/binfmt_misc"
PREFIX = "anyarch-"
_FIRST_KERNEL = (4, 8)  # the flag F
_FIRST_QEMU = 6  # that is told by the kernel whether flag P is set
_DELIMITERS = ":;,|!^~+@"


class Change(msgspec.Struct, frozen=True):
    """What was done for one QEMU architecture. `action` is registered, replaced, kept (it was there), left
    (another's handler serves it), removed, or missing; `detail` says with what, or why."""

    arch: str
    action: str
    detail: str


def architectures(text: str, *, native: Iterable[str] = ()) -> list[str]:
    """The QEMU architectures of a comma list; of platforms' or QEMU's names, or of `all` but the `native`
    ones (platforms' names). Raises `UsageError`."""
    if text == "all":
        left_out = set(native)
        return [qemu for name, qemu in QEMU_ARCHITECTURES.items() if name not in left_out]
    found: dict[str, None] = {}
    for word in text.split(","):
        name = word.strip().removeprefix("linux/").partition("/")[0].removeprefix("qemu-")
        qemu = QEMU_ARCHITECTURES.get(name, name)
        if qemu not in QEMU_ARCHITECTURES.values():
            raise UsageError(
                f"unknown architecture {word.strip()!r}",
                hint=f"it is all, or of {', '.join(QEMU_ARCHITECTURES)}",
            )
        found[qemu] = None
    return list(found)


def ensure_mounted(directory: str = BINFMT_MISC) -> bool:
    """Make the table of the machine reachable; whether it had to be mounted. Raises `SandboxError` with what
    the kernel lacks or who has to do it."""
    release = os.uname().release
    if kernel_version(release) < _FIRST_KERNEL:
        raise SandboxError(
            f"Linux {release} cannot keep an emulator open for other root file systems (flag F)",
            hint="that needs Linux 4.8 or newer",
        )
    if os.geteuid() != 0:
        raise SandboxError(
            "only root can register emulators with the machine",
            hint="run it with sudo; builds of anyarch need no registration on Linux 6.7 or newer: see "
            "anyarch emulators ls",
        )
    mounted = False
    if not os.path.exists(f"{directory}/register"):
        _mount(directory)
        mounted = True
    with open(f"{directory}/status") as file:
        if file.read().strip() != "enabled":
            raise SandboxError(
                f"binfmt_misc is switched off on this machine ({directory}/status)",
                hint=f"as root: echo 1 > {directory}/status",
            )
    return mounted


def _mount(directory: str) -> None:
    from anyarch.sandbox.supervisor import syscalls as kernel

    if not os.path.isdir(directory):
        _load_module()
    try:
        kernel.mount(b"binfmt_misc", os.fsencode(directory), b"binfmt_misc", 0)
    except OSError as error:
        hint = "inside a container it has to be privileged"
        if error.errno in (errno.ENODEV, errno.ENOENT):
            hint = "the kernel has no binfmt_misc (CONFIG_BINFMT_MISC): modprobe binfmt_misc"
        raise SandboxError(
            f"binfmt_misc could not be mounted at {directory}: {(error.strerror or '').lower()}", hint=hint
        ) from None


def _load_module() -> None:
    import subprocess

    try:
        subprocess.run(["modprobe", "binfmt_misc"], capture_output=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return  # the mount that follows tells


def kernel_version(release: str) -> tuple[int, int]:
    """`6.1.0-13-amd64` → (6, 1); (0, 0) for what is no version."""
    match = re.match(r"(\d+)\.(\d+)", release)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def install(
    wanted: Iterable[str], emulators: Mapping[str, Emulator], *, directory: str = BINFMT_MISC
) -> list[Change]:
    """Register what is not served yet, each with flag F. The table has to be mounted. Raises `SandboxError`
    when the kernel refuses one."""
    handlers = read_handlers(directory)
    changes = []
    for arch in wanted:
        emulator = emulators.get(arch)
        own, other = _split(handlers.get(arch, []))
        if emulator is None:
            changes.append(Change(arch, "missing", f"no static qemu-{arch} was found"))
        elif other is not None and own is None:
            changes.append(Change(arch, "left", f"{other.name} serves it ({other.interpreter})"))
        else:
            changes.append(_register(arch, emulator, own, directory))
    return changes


def _split(handlers: Iterable[Handler]) -> tuple[Handler | None, Handler | None]:
    """Our own handler, and another's that works in any root file system."""
    own = next((handler for handler in handlers if handler.name.startswith(PREFIX)), None)
    other = next((h for h in handlers if h.is_fixed and not h.name.startswith(PREFIX)), None)
    return own, other


def _register(arch: str, emulator: Emulator, own: Handler | None, directory: str) -> Change:
    entry = registration(emulator)
    flags = entry.flags if _knows_flag_p(emulator.version()) else entry.flags.replace("P", "")
    entry = msgspec.structs.replace(entry, name=PREFIX + entry.name, flags=flags)
    version = emulator.version().partition(" ")[0]
    detail = f"{entry.name}: {emulator.path}" + (f", version {version}" if version else "")
    action = "registered"
    if own is not None and own.interpreter == emulator.path and own.is_fixed:
        return Change(arch, "kept", detail)
    if os.path.exists(f"{directory}/{entry.name}"):  # with another emulator, or switched off
        _remove(entry.name, directory)
        action = "replaced"
    _write(f"{directory}/register", register_line(entry), what=f"the emulator {emulator.path}")
    return Change(arch, action, f"{detail}, flags {flags}")


def _knows_flag_p(version: str) -> bool:
    number = version.partition(".")[0]
    return not number.isdecimal() or int(number) >= _FIRST_QEMU


def register_line(entry: Registration) -> bytes:
    """What is written to `register`. Raises `SandboxError` for a path that no line can hold."""
    mark = next((mark for mark in _DELIMITERS if mark not in entry.interpreter), "")
    path = os.fsencode(entry.interpreter)
    if not mark or b"\n" in path or len(path) > 127:  # BINPRM_BUF_SIZE of older kernels
        raise SandboxError(f"an emulator at {entry.interpreter!r} cannot be registered: its path is odd")
    fields = [entry.name.encode(), b"M", b"0", _escaped(entry.magic), _escaped(entry.mask), path]
    return mark.encode() + mark.encode().join([*fields, entry.flags.encode()])


def _escaped(raw: bytes) -> bytes:
    return "".join(f"\\x{byte:02x}" for byte in raw).encode()


def works(architecture: str) -> bool:
    """Whether the kernel runs a tiny program of this architecture (a platform's name), from a file."""
    import tempfile

    from anyarch.elf.tiny import tiny_executable

    wanted = 42
    with tempfile.TemporaryDirectory(prefix="anyarch-probe-") as directory:
        path = os.path.join(directory, "probe")
        with open(path, "wb") as file:
            file.write(tiny_executable(architecture, wanted))
        os.chmod(path, 0o755)
        try:
            pid = os.posix_spawn(path, ["probe"], {})
        except OSError:
            return False
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == wanted


def uninstall(wanted: Iterable[str] | None, *, directory: str = BINFMT_MISC) -> list[Change]:
    """Remove our own entries: all of them for None, disabled ones too."""
    wanted = None if wanted is None else set(wanted)
    changes = []
    try:
        names = sorted(name for name in os.listdir(directory) if name.startswith(f"{PREFIX}qemu-"))
    except FileNotFoundError:
        names = []
    for name in names:
        arch = name.removeprefix(f"{PREFIX}qemu-")
        if wanted is None or arch in wanted:
            _remove(name, directory)
            changes.append(Change(arch, "removed", name))
    return changes


def _remove(name: str, directory: str) -> None:
    _write(f"{directory}/{name}", b"-1", what=f"the entry {name}")


def _write(path: str, data: bytes, *, what: str) -> None:
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, data)
        finally:
            os.close(fd)
    except OSError as error:
        raise SandboxError(
            f"binfmt_misc refused {what}: {(error.strerror or '').lower()}",
            hint="it needs root on the machine itself"
            if error.errno in (errno.EACCES, errno.EPERM)
            else None,
        ) from None
