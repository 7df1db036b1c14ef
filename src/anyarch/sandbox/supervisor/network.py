"""A network of the steps' own: a namespace that those of one supervisor share, as they would share the
machine's. Who connects it to the world finds it at `NAME` of the state directory, in the supervisor's mount
namespace only.
"""

from __future__ import annotations

import _socket
import fcntl
import os
import struct

from . import syscalls as kernel
from .report import Refused, gate, receive_descriptors, receive_frame, send_descriptors, send_frame

NAME = b"/net"
_BACKLOG = 256


def make_network(state_dir: bytes) -> int:
    """A descriptor of a new namespace with a loopback. Raises `Refused`."""
    ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM)
    with gate("fork"):
        pid = os.fork()
    if pid == 0:
        _make(theirs)
    theirs.close()
    try:
        answer = receive_frame(ours)
        if answer is not None and answer is not True:
            raise Refused(*answer)
        (namespace,) = receive_descriptors(ours, 1)
    finally:
        ours.close()
        os.waitpid(pid, 0)
    with gate("network", state_dir):
        kernel.mount(b"tmpfs", state_dir, b"tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, b"mode=755")
        os.close(os.open(state_dir + NAME, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
        # by a path of its own: programs that give up privileges may not look into /proc of others
        kernel.mount(b"/proc/self/fd/%d" % namespace, state_dir + NAME, None, kernel.MS_BIND)
    return namespace


def _make(sock: _socket.socket) -> None:
    try:
        with gate("network"):
            kernel.unshare(kernel.CLONE_NEWNET)
        loopback_up()
        with gate("network"):
            namespace = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        send_frame(sock, True)
        send_descriptors(sock, namespace)
    except Refused as refused:
        send_frame(sock, (refused.gate, refused.subject, refused.code, refused.detail))
    os._exit(0)


def loopback_up() -> None:
    """In the caller's network namespace."""
    with gate("loopback"):
        probe = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM, 0)
        flags = 0x1 | 0x40  # IFF_UP, IFF_RUNNING
        fcntl.ioctl(probe.fileno(), 0x8914, struct.pack("16sH14x", b"lo", flags))  # SIOCSIFFLAGS
        probe.close()


def send_listener(control: _socket.socket, port: int) -> None:
    """A socket that listens on the loopback of the caller's network namespace, for the parent to serve:
    nothing else leads out of it. None of it is left here."""
    with gate("network"):
        listener = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC, 0)
        listener.bind(("127.0.0.1", port))
        listener.listen(_BACKLOG)
        send_frame(control, ("listener",))
        send_descriptors(control, listener.fileno())
        listener.close()
