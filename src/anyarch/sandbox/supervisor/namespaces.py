"""User namespaces that hold a private binfmt_misc: one for each set of emulators, made when it is first
needed.

A step enters one last of all. The kernel looks for handlers in the user namespace of the process that calls
execve, then in its ancestors, so the namespace need not own anything else of the step (Linux 6.7).
"""

from __future__ import annotations

import _socket
import os
import struct

from . import syscalls as kernel
from .report import Refused, gate, receive_frame, send_frame

TYPE_CHECKING = False
if TYPE_CHECKING:
    Registration = tuple[bytes, bytes, bytes, bytes, bytes]  # name, magic, mask, interpreter, flags


class EmulatorNamespaces:
    """By their registrations. What is opened here stays open as long as the supervisor lives."""

    def __init__(self) -> None:
        self._namespaces: dict[tuple[Registration, ...], int] = {}
        self._file_systems: list[
            int
        ] = []  # the kernel drops the entries with the last reference to their mount

    def get(self, registrations: tuple[Registration, ...]) -> int:
        """A descriptor of the namespace. Raises `Refused`."""
        found = self._namespaces.get(registrations)
        if found is None:
            found, file_system = _make(registrations)
            self._namespaces[registrations] = found
            self._file_systems.append(file_system)
        return found


def _make(registrations: tuple[Registration, ...]) -> tuple[int, int]:
    ours, theirs = (_socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM, 0, fd) for fd in _socketpair())
    with gate("fork"):
        pid = os.fork()
    if pid == 0:
        ours.close()
        _maker(theirs, registrations)
    theirs.close()
    try:
        _expect(ours)
        with gate("emulator map"):
            # The maker's pid as /proc has it: ours is another in the pid namespace of that mount.
            seen = receive_frame(ours)
            for name in ("uid_map", "gid_map"):
                _write(f"/proc/{seen}/{name}", _identity(f"/proc/self/{name}"))
        send_frame(ours, "mapped")
        _expect(ours)
        _, ancillary, _, _ = ours.recvmsg(1, _socket.CMSG_SPACE(8), _socket.MSG_CMSG_CLOEXEC)
        namespace, file_system = struct.unpack("=2i", ancillary[0][2])
        return namespace, file_system
    finally:
        ours.close()
        os.waitpid(pid, 0)


def _socketpair() -> tuple[int, int]:
    first, second = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM)
    return first.detach(), second.detach()


def _expect(sock: _socket.socket) -> None:
    answer = receive_frame(sock)
    if isinstance(answer, tuple):
        raise Refused(*answer)
    if answer is None:
        raise Refused("internal", b"the process that makes a user namespace ended", 0)


def _maker(sock: _socket.socket, registrations: tuple[Registration, ...]) -> None:
    try:
        with gate("emulator namespace"):
            kernel.unshare(kernel.CLONE_NEWUSER | kernel.CLONE_NEWNS)
        send_frame(sock, "unshared")
        send_frame(sock, os.readlink("/proc/self"))
        receive_frame(sock)
        with gate("binfmt_misc"):
            file_system = kernel.detached_mount(b"binfmt_misc")
        with gate("propagation"):
            kernel.mount(b"none", b"/", None, kernel.MS_REC | kernel.MS_PRIVATE)
        for name, magic, mask, interpreter, flags in registrations:
            _make_unwritable(interpreter)
            with gate("register", name + b" " + interpreter):
                # opened here, because the kernel takes no path of more than 127 characters
                program = os.open(interpreter, os.O_PATH | os.O_CLOEXEC)
                path = b"/proc/self/fd/%d" % program
                fields = (b"", name, b"M", b"", _escape(magic), _escape(mask), path, flags)
                line = b":".join(fields)
                fd = os.open(b"register", os.O_WRONLY | os.O_CLOEXEC, dir_fd=file_system)
                os.write(fd, line)
                os.close(fd)
                os.close(program)
        with gate("emulator namespace"):
            namespace = os.open("/proc/self/ns/user", os.O_RDONLY | os.O_CLOEXEC)
        send_frame(sock, "done")
        rights = struct.pack("=2i", namespace, file_system)
        sock.sendmsg([b"n"], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, rights)])
    except Refused as refused:
        send_frame(sock, (refused.gate, refused.subject, refused.code, refused.detail))
    except BaseException as error:
        send_frame(sock, ("internal", repr(error).encode("utf-8", "replace"), 0, b""))
    os._exit(0)


def _make_unwritable(path: bytes) -> None:
    """Cover the emulator with itself, read-only, in this mount namespace: it is opened for good there, and a
    step can get at what is open by /proc/N/exe. Most kernels let nobody write to it meanwhile; not all."""
    try:
        clone = kernel.open_tree(kernel.AT_FDCWD, path, kernel.OPEN_TREE_CLONE)
        try:
            kernel.mount_setattr(clone, kernel.MOUNT_ATTR_RDONLY)
            kernel.move_mount(clone, kernel.AT_FDCWD, path)
        finally:
            os.close(clone)
    except OSError:
        return  # it is opened as it is, then


def _escape(raw: bytes) -> bytes:
    return b"".join(b"\\x%02x" % byte for byte in raw)


def _identity(path: str) -> bytes:
    """Each id that exists here, as itself."""
    with open(path, "rb", buffering=0) as file:
        lines = file.read().splitlines()
    ranges = [(int(first), int(count)) for first, _, count in (line.split() for line in lines)]
    return b"".join(b"%d %d %d\n" % (first, first, count) for first, count in ranges)


def _write(path: str, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, data)
    finally:
        os.close(fd)
