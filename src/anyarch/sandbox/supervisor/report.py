"""Errors of the child, and the frames that carry requests and reports over a stream socket."""

from __future__ import annotations

import _socket
import marshal
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket
    from typing import Any


class Refused(Exception):
    """What the kernel refused: a `gate` (a word that the parent knows), on what, and its errno."""

    def __init__(self, gate: str, subject: bytes, code: int, detail: bytes = b"") -> None:
        super().__init__(gate, subject, code, detail)
        self.gate = gate
        self.subject = subject
        self.code = code
        self.detail = detail


class gate:
    """Says which gate an OSError in the block came from."""

    def __init__(self, name: str, subject: bytes = b"") -> None:
        self.name = name
        self.subject = subject

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError):
            raise Refused(self.name, self.subject, error.errno or 0) from error


def send_frame(sock: socket, value: Any) -> None:
    raw = marshal.dumps(value, 0)  # the version that names each type in one way; see anyarch.sandbox.reports
    sock.sendall(struct.pack("=I", len(raw)) + raw)


def receive_frame(sock: socket) -> Any:
    """The next value, None at the end of the stream."""
    head = _receive(sock, 4)
    if len(head) < 4:
        return None
    size: int = struct.unpack("=I", head)[0]
    raw = _receive(sock, size)
    return marshal.loads(raw) if len(raw) == size else None


def send_descriptors(sock: socket, *descriptors: int) -> None:
    """With one byte, as the kernel wants."""
    packed = struct.pack(f"={len(descriptors)}i", *descriptors)
    sock.sendmsg([b"n"], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, packed)])


def receive_descriptors(sock: socket, count: int) -> tuple[int, ...]:
    """Closed on execve. Raises `Refused` when the other side ended before it sent them."""
    size = _socket.CMSG_SPACE(4 * count)
    _, ancillary, _, _ = sock.recvmsg(1, size, _socket.MSG_CMSG_CLOEXEC)
    if not ancillary:
        raise Refused("internal", b"the process that makes a namespace ended", 0)
    return struct.unpack(f"={count}i", ancillary[0][2][: 4 * count])


def _receive(sock: socket, size: int) -> bytes:
    parts = []
    while size:
        try:
            part = sock.recv(min(size, 1 << 20))
        except ConnectionResetError:  # it was closed with something of ours unread: its end all the same
            break
        if not part:
            break
        parts.append(part)
        size -= len(part)
    return b"".join(parts)
