"""From an `ExecRequest` to the list of operations that the supervisor's child carries out, in order.

Pure: nothing is opened or tried here, so a plan can be printed and compared (`Plan.describe`). The defaults
are Docker's: its mounts, capabilities, hidden and read-only paths.
"""

from __future__ import annotations

import os
import posixpath
from typing import TYPE_CHECKING

import msgspec

from anyarch.errors import SandboxError
from anyarch.sandbox.plan import PROXY_PORT, Bind, DeviceNode, FileMount, OverlayMount, Tmpfs
from anyarch.sandbox.seccomp import SECCOMP_NR, filter_for

if TYPE_CHECKING:
    from anyarch.sandbox.plan import ExecRequest, Mount, RootFS

__all__ = ["DEFAULT_CAPABILITIES", "MAX_LAYERS", "Op", "Plan", "compile_plan"]

# An operation: its name and its arguments, of types that marshal can carry.
Op = tuple[object, ...]

# The kernel stacks at most 500 lower directories; one is ours, with the mountpoints.
MAX_LAYERS = 499

_CLONE_NEWNS, _CLONE_NEWCGROUP, _CLONE_NEWUTS = 0x00020000, 0x02000000, 0x04000000
_CLONE_NEWIPC, _CLONE_NEWNET = 0x08000000, 0x40000000

# chown dac_override fowner fsetid kill setgid setuid setpcap net_bind_service net_raw sys_chroot mknod
# audit_write setfcap (linux/capability.h)
DEFAULT_CAPABILITIES = sum(1 << bit for bit in (0, 1, 3, 4, 5, 6, 7, 8, 10, 13, 18, 27, 29, 31))
_ALL_CAPABILITIES = (1 << 64) - 1

_MASKED = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
)
_READONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")

# setrlimit(2) resources, asm-generic/resource.h
_RLIMITS = {
    name: number
    for number, name in enumerate(
        [
            "cpu",
            "fsize",
            "data",
            "stack",
            "core",
            "rss",
            "nproc",
            "nofile",
            "memlock",
            "as",
            "locks",
            "sigpending",
            "msgqueue",
            "nice",
            "rtprio",
            "rttime",
        ]
    )
}

# Nothing in an upper directory may need the overlay it was made by: no redirects, no metadata-only copies.
_OVERLAY_OPTIONS = {
    "trusted": b"redirect_dir=nofollow,metacopy=off,index=off",
    "user": b"userxattr",
}


class Plan(msgspec.Struct, frozen=True):
    """All that the child needs, as values that marshal can carry. The first operation mounts the root."""

    namespaces: int
    hostname: bytes
    overlay_options: bytes
    operations: tuple[Op, ...]
    argv: tuple[bytes, ...]
    env: dict[bytes, bytes]
    cwd: bytes
    uid: int
    gid: int
    groups: tuple[int, ...]
    rlimits: tuple[tuple[int, int, int], ...]
    capabilities: int
    seccomp: tuple[int, bytes]
    insecure: bool
    tty: bool
    pids: int
    tells_start: bool
    own_network: bool
    listens: int

    def describe(self) -> list[str]:
        """One line an operation, for people and tests."""
        return [" ".join(_word(part) for part in op) for op in self.operations]


def _word(part: object) -> str:
    if isinstance(part, bytes):
        return os.fsdecode(part) or "''"
    if isinstance(part, tuple):
        return ":".join(_word(item) for item in part) or "-"
    return str(part)


def compile_plan(request: ExecRequest, *, overlay: str, machine: str, tells_start: bool = False) -> Plan:
    """The operations of `request`. `overlay` is `trusted` or `user`, `machine` the kernel's `uname -m`.
    With `tells_start` the child reports when its program is about to run.

    Raises `SandboxError` for a request that cannot be carried out anywhere.
    """
    if not request.argv:
        raise SandboxError("there is no command to run")
    if request.network not in ("host", "none", "own", "proxy"):
        raise SandboxError(
            f"network mode {request.network!r} is not known", hint="use host, none, own or proxy"
        )
    nodev = not request.insecure
    operations: list[Op] = [
        _overlay("root", request.root, nodev),
        ("proc", b"proc"),
        ("dev", b"dev", request.shm_size, request.insecure),
        ("sys", b"sys", request.insecure),
        *(_mount(mount, nodev) for mount in _in_order(request.mounts)),
    ]
    if request.hidden is not None:
        operations.append(("hidden", _text(request.hidden.source), _text(request.hidden.log)))
    if not request.insecure:
        operations += [("readonly", _relative(path)) for path in _READONLY]
        operations += [("mask", _relative(path)) for path in _MASKED]
    namespaces = _CLONE_NEWNS | _CLONE_NEWIPC | _CLONE_NEWUTS
    if not request.insecure:
        namespaces |= _CLONE_NEWCGROUP  # /proc/self/cgroup does not tell the host's names
    if request.network in ("none", "proxy"):
        namespaces |= _CLONE_NEWNET
    program = b"" if request.insecure else filter_for(machine)
    return Plan(
        namespaces=namespaces,
        hostname=request.hostname.encode(),
        overlay_options=_OVERLAY_OPTIONS[overlay],
        operations=tuple(operations),
        argv=tuple(_text(argument) for argument in request.argv),
        env=_environment(request.env),
        cwd=_text(posixpath.normpath("/" + request.cwd)),
        uid=request.uid,
        gid=request.gid,
        groups=request.groups,
        rlimits=tuple((_rlimit(limit.name), limit.soft, limit.hard) for limit in request.ulimits),
        capabilities=_ALL_CAPABILITIES if request.insecure else DEFAULT_CAPABILITIES,
        seccomp=(SECCOMP_NR.get(machine, 0), program),
        insecure=request.insecure,
        tty=request.tty,
        pids=request.pids,
        tells_start=tells_start,
        own_network=request.network == "own",
        listens=PROXY_PORT if request.network == "proxy" else 0,
    )


def _in_order(mounts: tuple[Mount, ...]) -> list[Mount]:
    """Parents before what is mounted in them; of several at one place the last."""
    last = {_relative(mount.dest): mount for mount in mounts}
    return [last[dest] for dest in sorted(last, key=lambda dest: dest.count(b"/"))]


def _mount(mount: Mount, nodev: bool) -> Op:
    dest = _relative(mount.dest)
    if not dest:
        raise SandboxError("nothing can be mounted on the root directory", hint="choose another target")
    match mount:
        case Bind():
            words = (b"nosuid",) * mount.nosuid + (b"noexec",) * mount.noexec
            source, selector = _text(mount.source), _relative(mount.selector)
            return ("bind", dest, source, selector, mount.readonly, nodev, *words)
        case DeviceNode():
            return ("node", dest, _text(mount.source), mount.mode, mount.number, mount.uid, mount.gid)
        case Tmpfs():
            return ("tmpfs", dest, mount.size, mount.mode, nodev)
        case FileMount():
            return ("file", dest, mount.data, mount.mode, mount.uid, mount.gid, mount.readonly)
        case OverlayMount():
            return (*_overlay("tree", mount.root, nodev), dest, _relative(mount.selector))


def _overlay(name: str, root: RootFS, nodev: bool) -> Op:
    if len(root.lowers) > MAX_LAYERS:
        raise SandboxError(
            f"a root of {len(root.lowers)} layers is more than the kernel can stack ({MAX_LAYERS})",
            hint="put several instructions into one, or copy the stage into a new one",
        )
    if bool(root.upper) != bool(root.work):
        raise SandboxError("an overlay needs both an upper and a work directory, or none")
    lowers = tuple(_text(path) for path in root.lowers)
    return (name, lowers, _text(root.upper), _text(root.work), root.readonly or not root.upper, nodev)


def _relative(path: str) -> bytes:
    """Below the root, without leading slash; `..` does not lead out."""
    return _text(posixpath.normpath("/" + path)).lstrip(b"/")


def _text(value: str) -> bytes:
    raw = os.fsencode(value)
    if b"\0" in raw:
        raise SandboxError(f"a NUL character is not possible in {value!r}")
    return raw


def _environment(texts: tuple[str, ...]) -> dict[bytes, bytes]:
    result = {}
    for text in texts:
        name, _, value = _text(text).partition(b"=")
        if name:
            result[name] = value
    return result


def _rlimit(name: str) -> int:
    number = _RLIMITS.get(name.lower().removeprefix("rlimit_"))
    if number is None:
        raise SandboxError(f"there is no resource limit {name!r}", hint="known are " + ", ".join(_RLIMITS))
    return number
