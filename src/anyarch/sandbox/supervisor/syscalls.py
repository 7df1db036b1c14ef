"""The system calls of the sandbox, each declared once. Each function raises OSError with its errno."""

from __future__ import annotations

import ctypes
import fcntl
import os
import struct
from ctypes import c_char_p, c_int, c_long, c_uint, c_ulong, c_void_p

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

# sched.h
CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

# sys/mount.h
MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_BIND = 4096
MS_REC = 16384
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MNT_DETACH = 2

# linux/mount.h
OPEN_TREE_CLONE = 1
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000
MOVE_MOUNT_F_EMPTY_PATH = 0x4
MOVE_MOUNT_T_EMPTY_PATH = 0x40
MOUNT_ATTR_RDONLY = 0x1
MOUNT_ATTR_NOSUID = 0x2
MOUNT_ATTR_NODEV = 0x4
MOUNT_ATTR_NOEXEC = 0x8

# linux/openat2.h
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_IN_ROOT = 0x10

# linux/prctl.h
PR_SET_DUMPABLE = 4
PR_SET_KEEPCAPS = 8
PR_CAPBSET_DROP = 24
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2
PR_SET_NO_NEW_PRIVS = 38

# linux/memfd.h, linux/fcntl.h
MFD_CLOEXEC = 1
MFD_ALLOW_SEALING = 2
MFD_EXEC = 0x10
F_ADD_SEALS = 1033
F_SEAL_ALL = 0xF  # SEAL, SHRINK, GROW, WRITE

MADV_DONTNEED = 4
FSCONFIG_CMD_CREATE = 6
CLOSE_RANGE_CLOEXEC = 4
SECCOMP_SET_MODE_FILTER = 1
SECCOMP_FILTER_FLAG_SPEC_ALLOW = 4
AT_FDCWD = -100
_CAPABILITY_VERSION = 0x20080522  # _LINUX_CAPABILITY_VERSION_3

_libc = ctypes.CDLL(None, use_errno=True)


class SockFprog(ctypes.Structure):
    """struct sock_fprog of linux/filter.h"""

    _fields_ = (("len", ctypes.c_ushort), ("filter", c_char_p))


def _function(name: str, *argtypes: type) -> Callable[..., int]:
    function = _libc[name]
    function.argtypes = argtypes
    function.restype = c_int
    return function


def _numbered(*argtypes: type) -> Callable[..., int]:
    """A call that the C library may not know; its number comes first."""
    function = _libc["syscall"]  # a new object each time, so each has argument types of its own
    function.argtypes = (c_long, *argtypes)
    function.restype = c_long
    return function


_unshare = _function("unshare", c_int)
_setns = _function("setns", c_int, c_int)
_mount = _function("mount", c_char_p, c_char_p, c_char_p, c_ulong, c_char_p)
_umount2 = _function("umount2", c_char_p, c_int)
_pivot_root = _function("pivot_root", c_char_p, c_char_p)
_prctl = _function("prctl", c_int, c_ulong, c_ulong, c_ulong, c_ulong)
_sethostname = _function("sethostname", c_char_p, c_ulong)
_capset = _function("capset", c_char_p, c_char_p)
_capget = _function("capget", c_char_p, c_char_p)
_signal = _function("signal", c_int, c_void_p)
# these have one number on all machines (except alpha and mips)
_open_tree = _numbered(c_int, c_char_p, c_uint)
_move_mount = _numbered(c_int, c_char_p, c_int, c_char_p, c_uint)
_fsopen = _numbered(c_char_p, c_uint)
_fsconfig = _numbered(c_int, c_uint, c_char_p, c_char_p, c_int)
_fsmount = _numbered(c_int, c_uint, c_uint)
_madvise = _function("madvise", c_void_p, c_ulong, c_int)
_close_range = _numbered(c_uint, c_uint, c_uint)
_openat2 = _numbered(c_int, c_char_p, c_char_p, c_ulong)
_mount_setattr = _numbered(c_int, c_char_p, c_uint, c_char_p, c_ulong)
_seccomp = _numbered(c_uint, c_uint, c_void_p)


def _check(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def unshare(flags: int) -> None:
    _check(_unshare(flags))


def setns(fd: int, kind: int) -> None:
    _check(_setns(fd, kind))


def mount(source: bytes, target: bytes, kind: bytes | None, flags: int, data: bytes | None = None) -> None:
    _check(_mount(source, target, kind, flags, data))


def umount2(target: bytes, flags: int) -> None:
    _check(_umount2(target, flags))


def pivot_root(new_root: bytes, put_old: bytes) -> None:
    _check(_pivot_root(new_root, put_old))


def prctl(option: int, value: int = 0, value2: int = 0) -> None:
    _check(_prctl(option, value, value2, 0, 0))


def sethostname(name: bytes) -> None:
    _check(_sethostname(name, len(name)))


def default_signal(number: int) -> None:
    _signal(number, None)  # SIG_DFL; fails for no signal that exists


def capset(effective: int, permitted: int, inheritable: int) -> None:
    """Set the capabilities of this thread; each set is a bit mask."""
    low, high = 0xFFFFFFFF, 32
    data = struct.pack(
        "=6I",
        *(effective & low, permitted & low, inheritable & low),
        *(effective >> high, permitted >> high, inheritable >> high),
    )
    _check(_capset(struct.pack("=Ii", _CAPABILITY_VERSION, 0), data))


def permitted_capabilities() -> int:
    """Those that this thread has, as a bit mask."""
    data = ctypes.create_string_buffer(24)
    _check(_capget(struct.pack("=Ii", _CAPABILITY_VERSION, 0), data))
    low, high = struct.unpack("=4xI8xI4x", data.raw)
    return int(low | high << 32)


def open_tree(dir_fd: int, path: bytes, flags: int) -> int:
    """A new mount (not attached yet) of what is at `path`; the flags are OPEN_TREE_CLONE and AT_*."""
    return _check(_open_tree(428, dir_fd, path, flags | os.O_CLOEXEC))


def move_mount(mount_fd: int, dir_fd: int, path: bytes = b"") -> None:
    """Attach a detached mount at `path` below `dir_fd`, or on what `dir_fd` refers to."""
    flags = MOVE_MOUNT_F_EMPTY_PATH | (0 if path else MOVE_MOUNT_T_EMPTY_PATH)
    _check(_move_mount(429, mount_fd, b"", dir_fd, path, flags))


def mount_setattr(mount_fd: int, attributes: int, *, recursive: bool = False) -> None:
    """Add MOUNT_ATTR_* to a mount (Linux 5.12)."""
    value = struct.pack("=4Q", attributes, 0, 0, 0)
    flags = AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0)
    _check(_mount_setattr(442, mount_fd, b"", flags, value, len(value)))


def detached_mount(kind: bytes) -> int:
    """A new file system of this kind, mounted nowhere; it lives as long as the descriptor."""
    context = _check(_fsopen(430, kind, 1))  # FSOPEN_CLOEXEC
    try:
        _check(_fsconfig(431, context, FSCONFIG_CMD_CREATE, None, None, 0))
        return _check(_fsmount(432, context, 1, 0))  # FSMOUNT_CLOEXEC
    finally:
        os.close(context)


def open_in_root(root_fd: int, path: bytes, flags: int, *, links: bool = True) -> int:
    """Open `path` with `root_fd` as the root directory: neither `..` nor links lead out of it (Linux 5.6).

    Without `links` there may be none on the path at all (ELOOP).
    """
    resolve = RESOLVE_IN_ROOT | (RESOLVE_NO_MAGICLINKS if links else RESOLVE_NO_SYMLINKS)
    how = struct.pack("=3Q", flags | os.O_CLOEXEC, 0, resolve)
    while True:
        try:
            return _check(_openat2(437, root_fd, path, how, len(how)))
        except BlockingIOError:
            # Something was renamed or mounted anywhere on the machine while it went through a `..`.
            continue


def drop_clean_pages() -> None:
    """Take what was read of the interpreter and its libraries out of this process's memory; what is needed of
    it comes back from the page cache. For a process that has next to nothing more to do."""
    found = []
    start = end = 0
    with open("/proc/self/smaps", "rb") as file:
        for line in file:
            words = line.split()
            if words[0] == b"Anonymous:":
                # A mapping with pages that were written, such as what the linker has relocated, has to stay.
                if end and words[1] == b"0":
                    found.append((end - start, start))
                end = 0
            elif not words[0].endswith(b":"):
                start, end = (int(number, 16) for number in words[0].split(b"-"))
                if b"w" in words[1] or words[4] == b"0":
                    end = 0
    found.sort()
    for size, start in found:  # what does this at last, as it comes back at once
        _check(_madvise(start, size, MADV_DONTNEED))


def close_range_on_exec(first: int) -> None:
    """Let no descriptor from `first` on pass an execve."""
    _check(_close_range(436, first, 0xFFFFFFFF, CLOSE_RANGE_CLOEXEC))


def close_range(first: int, last: int = 0xFFFFFFFF) -> None:
    if first <= last:
        _check(_close_range(436, first, last, 0))


def close_all_but(*kept: int) -> None:
    """Close every descriptor from 3 on, but these."""
    first = 3
    for fd in sorted(fd for fd in kept if fd >= 3):
        close_range(first, fd - 1)
        first = fd + 1
    close_range(first)


def sealed_file(name: bytes, data: bytes) -> int:
    """A descriptor of a file in memory that can be executed, and that nobody can change or unseal."""
    flags = MFD_CLOEXEC | MFD_ALLOW_SEALING
    try:
        fd = os.memfd_create(os.fsdecode(name), flags | MFD_EXEC)
    except OSError:  # before Linux 6.3, which made the flag
        fd = os.memfd_create(os.fsdecode(name), flags)
    os.write(fd, data)
    os.fchmod(fd, 0o555)
    fcntl.fcntl(fd, F_ADD_SEALS, F_SEAL_ALL)
    return fd


def seccomp_filter(seccomp_nr: int, program: bytes) -> None:
    """Install a filter on this thread. Without SPEC_ALLOW kernels before 5.16 slow the process down."""
    argument = SockFprog(len(program) // 8, program)
    flags = SECCOMP_FILTER_FLAG_SPEC_ALLOW
    _check(_seccomp(seccomp_nr, SECCOMP_SET_MODE_FILTER, flags, ctypes.addressof(argument)))
