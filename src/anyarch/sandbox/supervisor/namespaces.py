"""User namespaces that hold a private binfmt_misc: one for each set of emulators, made when it is first
needed.

A step enters one last of all. The kernel looks for handlers in the user namespace of the process that calls
execve, then in its ancestors, so the namespace need not own anything else of the step (Linux 6.7).
"""

from __future__ import annotations

import _socket
import os
import select

from . import syscalls as kernel
from .report import Refused, gate, receive_descriptors, receive_frame, send_descriptors, send_frame

TYPE_CHECKING = False
if TYPE_CHECKING:
    Registration = tuple[bytes, bytes, bytes, bytes, bytes]  # name, magic, mask, interpreter, flags


class Ticket:
    """What a step gets its namespace by: a descriptor of it, or of a socket on which it comes."""

    def __init__(self, fd: int = -1, *, is_socket: bool = False) -> None:
        self.fd = fd
        self.is_socket = is_socket

    def take(self) -> int:
        """In the step: a descriptor of the namespace, -1 for none; waits for one that is being made. Raises
        `Refused`."""
        if not self.is_socket:
            return self.fd
        sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM, 0, self.fd)
        try:
            _expect(sock)
            (namespace,) = receive_descriptors(sock, 1)
        finally:
            sock.close()
        return namespace


class _Making:
    """A process that makes a namespace, and who waits for it: sockets of steps and control sockets."""

    def __init__(self, registrations: tuple[Registration, ...], sock: _socket.socket) -> None:
        self.registrations = registrations
        self.sock = sock
        self.steps: list[_socket.socket] = []
        self.watchers: list[_socket.socket] = []


class EmulatorNamespaces:
    """By their registrations. What is opened here stays open as long as the supervisor lives.

    A namespace is made while the step that needs it sets up its tree: `order` only begins it, `serve` goes on
    whenever `poll` tells of a descriptor.
    """

    def __init__(self, poll: select.poll) -> None:
        self._poll = poll
        self._namespaces: dict[tuple[Registration, ...], int] = {}
        self._file_systems: list[
            int
        ] = []  # the kernel drops the entries with the last reference to their mount
        self._making: dict[int, _Making] = {}  # by descriptor

    def order(self, registrations: tuple[Registration, ...]) -> Ticket:
        """The ticket for a step about to be forked; `close` it after. Raises `Refused`."""
        found = self._namespaces.get(registrations)
        if found is not None:
            return Ticket(found)
        making = self._begin(registrations)
        ours, theirs = _socketpair()
        making.steps.append(ours)
        return Ticket(theirs.detach(), is_socket=True)

    def close(self, ticket: Ticket) -> None:
        """The step has a copy."""
        if ticket.is_socket:
            os.close(ticket.fd)

    def watch(self, registrations: tuple[Registration, ...], control: _socket.socket) -> None:
        """Tell `control` in frames, as an end or a refusal, when there is one; closes it then."""
        if registrations in self._namespaces:
            send_frame(control, ("ended", 0))
            control.close()
        else:
            self._begin(registrations).watchers.append(control)

    def serve(self, fd: int) -> bool:
        """Whether the descriptor is one of these; takes what its process tells."""
        making = self._making.get(fd)
        if making is None:
            return False
        try:
            # The maker's pid as /proc has it: ours is another in the pid namespace of that mount.
            told = receive_frame(making.sock)
            if isinstance(told, str):
                _map(told)
                making.sock.send(b"m")
                return True
            self._end(making, told)
        except Refused as refused:
            self._end(making, (refused.gate, refused.subject, refused.code, refused.detail))
        except OSError:
            self._end(making, None)  # it was killed
        return True

    def _begin(self, registrations: tuple[Registration, ...]) -> _Making:
        for making in self._making.values():
            if making.registrations == registrations:
                return making
        ours, theirs = _socketpair()
        with gate("fork"):
            pid = os.fork()
        if pid == 0:
            _maker(theirs, registrations)
        theirs.close()
        making = _Making(registrations, ours)
        self._making[ours.fileno()] = making
        self._poll.register(ours.fileno(), select.POLLIN)
        return making

    def _end(self, making: _Making, told: object) -> None:
        """The namespace is there, or `told` holds the arguments of a `Refused`. The next step tries again
        then."""
        self._poll.unregister(making.sock.fileno())
        del self._making[making.sock.fileno()]
        if told is True:
            namespace, file_system = receive_descriptors(making.sock, 2)
            self._namespaces[making.registrations] = namespace
            self._file_systems.append(file_system)
        elif not isinstance(told, tuple):
            told = ("internal", b"the process that makes a user namespace ended", 0, b"")
        making.sock.close()  # its process ends now, and is reaped with the next step that does
        for sock in making.steps:
            try:
                send_frame(sock, told)
                if told is True:
                    send_descriptors(sock, namespace)
            except OSError:
                continue  # the step was cancelled
            finally:
                sock.close()
        for control in making.watchers:
            try:
                send_frame(control, ("ended", 0) if told is True else ("refused", *told))
            except OSError:
                continue  # nobody listens any more
            finally:
                control.close()


def _map(seen: str) -> None:
    """Each id that exists here is itself there. The maker goes on meanwhile, as far as it can."""
    with gate("emulator map"):
        for name in ("uid_map", "gid_map"):
            _write(f"/proc/{seen}/{name}", _identity(f"/proc/self/{name}"))


def _socketpair() -> tuple[_socket.socket, _socket.socket]:
    return _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM)


def _expect(sock: _socket.socket) -> None:
    answer = receive_frame(sock)
    if isinstance(answer, tuple):
        raise Refused(*answer)
    if answer is None:
        raise Refused("internal", b"the supervisor ended", 0)


def _maker(sock: _socket.socket, registrations: tuple[Registration, ...]) -> None:
    """Make it, tell (the pid as text, then True and the descriptors, or what refused) and end with `sock`."""
    try:
        kernel.close_all_but(sock.fileno())  # the streams and sockets of steps are not for this one
        with gate("emulator namespace"):
            kernel.unshare(kernel.CLONE_NEWUSER | kernel.CLONE_NEWNS)
        send_frame(sock, os.readlink("/proc/self"))
        with gate("propagation"):
            kernel.mount(b"none", b"/", None, kernel.MS_REC | kernel.MS_PRIVATE)
        lines = []
        for name, magic, mask, interpreter, flags in registrations:
            _make_unwritable(interpreter)
            with gate("register", name + b" " + interpreter):
                # opened here, because the kernel takes no path of more than 127 characters
                path = b"/proc/self/fd/%d" % os.open(interpreter, os.O_PATH | os.O_CLOEXEC)
            lines.append(b":".join((b"", name, b"M", b"", _escape(magic), _escape(mask), path, flags)))
        sock.recv(1)  # the ids are mapped: without that the file system's files would belong to nobody
        with gate("binfmt_misc"):
            file_system = kernel.detached_mount(b"binfmt_misc")
        for (name, _, _, interpreter, _), line in zip(registrations, lines, strict=True):
            with gate("register", name + b" " + interpreter):
                register = os.open(b"register", os.O_WRONLY | os.O_CLOEXEC, dir_fd=file_system)
                os.write(register, line)
                os.close(register)
        with gate("emulator namespace"):
            namespace = os.open("/proc/self/ns/user", os.O_RDONLY | os.O_CLOEXEC)
        send_frame(sock, True)
        send_descriptors(sock, namespace, file_system)
    except Refused as refused:
        send_frame(sock, (refused.gate, refused.subject, refused.code, refused.detail))
    except BaseException as error:
        send_frame(sock, ("internal", repr(error).encode("utf-8", "replace"), 0, b""))
    while sock.recv(16):
        continue  # its maps are written by the name of this process, which has to be there until then
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
