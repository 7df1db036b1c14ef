"""What a step is to run and see: plain values, complete before anything is executed.

The engine describes a step as an `ExecRequest`; `anyarch.sandbox.compile` turns it into the list of
operations that the supervisor's child carries out. Paths are `str` with surrogateescape; layers are lowest
first.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, TypeAlias

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "DEFAULT_HOSTNAME",
    "DEFAULT_PIDS",
    "DEFAULT_SHM_SIZE",
    "NO_RESOURCES",
    "PROXY_PORT",
    "Bind",
    "CancelToken",
    "DeviceNode",
    "ExecRequest",
    "FileMount",
    "Hidden",
    "Mount",
    "OverlayMount",
    "Registration",
    "Resources",
    "RootFS",
    "Tmpfs",
    "Ulimit",
]

DEFAULT_HOSTNAME = "buildkitsandbox"
DEFAULT_SHM_SIZE = 64 << 20
PROXY_PORT = 23128
"""Where a step finds its proxy, on its own loopback."""
DEFAULT_PIDS = 16384
"""Processes and threads of one step: more than builds use, less than brings a machine down."""


class RootFS(msgspec.Struct, frozen=True):
    """A tree made of layer directories, lowest first.

    What the step writes goes to `upper` (`work` is the empty directory beside it that overlayfs wants, on the
    same file system). With neither, the tree is read-only. `readonly` forbids writing although there is an
    upper. `lowers` may be empty (FROM scratch).
    """

    lowers: tuple[str, ...]
    upper: str = ""
    work: str = ""
    readonly: bool = False


class Bind(msgspec.Struct, frozen=True):
    """A directory, file or socket of the host at `dest`.

    `source` is trusted. `selector` is a path below it that may hold what a step has written: links in it are
    resolved inside `source`, never outside.
    """

    source: str
    dest: str
    readonly: bool = False
    selector: str = ""
    nosuid: bool = False
    noexec: bool = False


class DeviceNode(msgspec.Struct, frozen=True):
    """A device (or a pipe) at `dest`: a new node of `mode` (type and permissions) and `number`, owned by
    `uid` and `gid`; in a user namespace, where there can be none, the machine's own node `source`."""

    dest: str
    source: str
    mode: int
    number: int
    uid: int = 0
    gid: int = 0


class Tmpfs(msgspec.Struct, frozen=True):
    """An empty file system in memory; `size` in bytes, 0 for the kernel's default (half of the memory)."""

    dest: str
    size: int = 0
    mode: int = 0o1777


class FileMount(msgspec.Struct, frozen=True):
    """A private file with these bytes (resolv.conf, hosts, a secret), held in memory only."""

    dest: str
    data: bytes
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    readonly: bool = True


class OverlayMount(msgspec.Struct, frozen=True):
    """Another tree, or with `selector` a path inside it, at `dest` (RUN --mount=type=bind,from=…)."""

    root: RootFS
    dest: str
    selector: str = ""


Mount: TypeAlias = Bind | Tmpfs | FileMount | OverlayMount | DeviceNode


class Hidden(msgspec.Struct, frozen=True):
    """A directory of the host that the step can use by its name but does not come across.

    It lies, read-only, at `/../dev/mqueue`: a second view of the step's tree is mounted over its root, and in
    that view only the directory is there. The kernel comes to that view by `..` of the root; what begins at
    `/` does not. It is at `/../dev/pts` too, for who has not room for the longer name. `log` is a file of the
    host that the step may write at `/../dev/mqueue/log`, which has to exist in `source`.
    """

    source: str
    log: str


class Ulimit(msgspec.Struct, frozen=True):
    """A resource limit by its ulimit name (`nofile`, `nproc`, `core` …); -1 is unlimited."""

    name: str
    soft: int
    hard: int


class Resources(msgspec.Struct, frozen=True):
    """Limits of a step for all its processes together, 0 or empty for none.

    `memory` and `memory_swap` (both together, -1 lifts it) in bytes, `cpu_period` and `cpu_quota` in
    microseconds, `cpu_shares` a weight (1024 is usual), the rest lists such as `0-3,5`.
    """

    memory: int = 0
    memory_swap: int = 0
    cpu_shares: int = 0
    cpu_period: int = 0
    cpu_quota: int = 0
    cpuset_cpus: str = ""
    cpuset_mems: str = ""


NO_RESOURCES = Resources()


class Registration(msgspec.Struct, frozen=True, order=True):
    """One entry of a private binfmt_misc: files that start with `magic` under `mask` are run by
    `interpreter`.
    """

    name: str
    magic: bytes
    mask: bytes
    interpreter: str
    flags: str


class ExecRequest(msgspec.Struct, frozen=True):
    """One process to run in a root file system of its own.

    `env` holds `NAME=value` texts. A missing `cwd` is created. `network` is `host` (shared with the machine),
    `none` (loopback only), `proxy` (the same with a listener on its port `PROXY_PORT`, which the caller of
    `Executor.run` gets) or `own`: the namespace that `namespace` is a descriptor of (the caller's, not
    closed here), else that of an ordinary user's steps, where `Executor.own_network` allows it. `insecure`
    keeps all capabilities and hides nothing. With `emulators` the process runs in a user namespace that has
    just these handlers for foreign programs. With `tty` it gets a terminal of its own. `pids` bounds its
    processes and threads (0: nothing does) where the kernel can. `resources` and `cgroup_parent` (a control
    group, made if missing, that the step's becomes a child of) are followed as far as this machine and user
    can: `Executor.run` tells what could not be. `hidden` is for what runs the programs of an emulated step,
    not for the step.
    `stdin` is a file descriptor of the caller (not closed here); None reads as empty.
    """

    argv: tuple[str, ...]
    root: RootFS
    env: tuple[str, ...] = ()
    cwd: str = "/"
    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] = ()
    mounts: tuple[Mount, ...] = ()
    hostname: str = DEFAULT_HOSTNAME
    network: str = "host"
    namespace: int | None = None
    insecure: bool = False
    shm_size: int = DEFAULT_SHM_SIZE
    ulimits: tuple[Ulimit, ...] = ()
    emulators: tuple[Registration, ...] = ()
    tty: bool = False
    stdin: int | None = None
    pids: int = DEFAULT_PIDS
    resources: Resources = NO_RESOURCES
    cgroup_parent: str = ""
    hidden: Hidden | None = None


class CancelToken:
    """Tells running steps to end, at once and from any thread. Setting it again does nothing."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._callbacks: list[Callable[[], None]] = []
        self._cancelled = False

    @property
    def cancelled(self) -> bool:
        return self._cancelled

    def cancel(self) -> None:
        with self._lock:
            self._cancelled = True
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()

    def add_callback(self, callback: Callable[[], None]) -> None:
        """Call `callback` on cancel, or now when cancelled already. It must not block."""
        with self._lock:
            if not self._cancelled:
                self._callbacks.append(callback)
                return
        callback()

    def remove_callback(self, callback: Callable[[], None]) -> None:
        with self._lock:
            if callback in self._callbacks:
                self._callbacks.remove(callback)
