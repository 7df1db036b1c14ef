"""From a fresh interpreter to the supervisor: its namespaces, and for an ordinary user the ids it may use."""

from __future__ import annotations

import errno
import os

from . import syscalls as kernel
from .report import Refused, gate


def become_supervisor(mode: str, uid_args: list[str], gid_args: list[str]) -> str:
    """Return in a new process that is pid 1 of a pid namespace; the calling one waits for it and ends with
    it.

    `mode` is `root` (no user namespace) or `user`. `uid_args` and `gid_args` are what newuidmap and newgidmap
    are to be called with after the pid, empty when there are no further ids. Returns which ids there are:
    `all`, `range` or `single`.
    """
    os.setsid()
    ids = "all"
    if mode == "user":
        ids = _enter_user_namespace(uid_args, gid_args)
        with gate("propagation"):
            # A user namespace may mount only in a mount namespace that it owns. What is mounted and unmounted
            # on the host later is so here as well, as far as the host shares it.
            kernel.unshare(kernel.CLONE_NEWNS)
            kernel.mount(b"none", b"/", None, kernel.MS_REC | kernel.MS_SLAVE)
    with gate("unshare"):
        kernel.unshare(kernel.CLONE_NEWPID)
    os.chdir("/")
    with gate("fork"):
        pid = os.fork()
    if pid:
        kernel.drop_clean_pages()  # a daemon has one of these for each build that runs
        kernel.close_range(0)
        _, status = os.waitpid(pid, 0)
        os._exit(os.waitstatus_to_exitcode(status) & 0xFF)
    _reset_oom_score()
    return ids


def _enter_user_namespace(uid_args: list[str], gid_args: list[str]) -> str:
    uid, gid = os.geteuid(), os.getegid()
    own_pid = os.getpid()
    helper = 0
    unshared = os.pipe()
    mapped = os.pipe()
    if uid_args and gid_args:
        with gate("fork"):
            helper = os.fork()
        if helper == 0:
            os.close(unshared[1])
            os.read(unshared[0], 1)
            done = _call("newuidmap", own_pid, uid_args) and _call("newgidmap", own_pid, gid_args)
            os.write(mapped[1], b"y" if done else b"n")
            os._exit(0)
    with gate("unshare user"):
        kernel.unshare(kernel.CLONE_NEWUSER)
    ranges = False
    if helper:
        os.write(unshared[1], b"x")
        ranges = os.read(mapped[0], 1) == b"y"
        os.waitpid(helper, 0)
    if not ranges:
        with gate("map ids"):
            _write("/proc/self/setgroups", b"deny")
            _write_map("/proc/self/uid_map", b"0 %d 1" % uid)
            _write_map("/proc/self/gid_map", b"0 %d 1" % gid)
    with gate("map ids"):
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
    for fd in (*unshared, *mapped):
        os.close(fd)
    return "range" if ranges else "single"


def _call(program: str, pid: int, arguments: list[str]) -> bool:
    child = os.fork()
    if child == 0:
        try:
            os.execvp(program, [program, str(pid), *arguments])
        except OSError:
            os._exit(127)
    return os.waitpid(child, 0)[1] == 0


def _write(path: str, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, data)
    finally:
        os.close(fd)


def _write_map(path: str, data: bytes) -> None:
    """newuidmap may have got as far as one of the two maps: that one stays."""
    try:
        _write(path, data)
    except OSError as error:
        if error.errno != errno.EPERM or not os.read(_open(path), 1):
            raise


def _open(path: str) -> int:
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


def _reset_oom_score() -> None:
    """A step is no more precious to the kernel than other programs, however our own process is protected."""
    try:
        with open("/proc/self/oom_score_adj", "r+b", buffering=0) as file:
            if int(file.read()) < 0:
                file.write(b"0")
    except OSError:
        return  # no such file without CONFIG_PROC_FS's full set; nothing depends on it


__all__ = ["Refused", "become_supervisor"]
