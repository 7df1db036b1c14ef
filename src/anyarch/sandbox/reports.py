"""What a child reports, read by the parent.

Until a process of a step executes its program it holds the socket the reports come by, and others in the same
namespaces may get at it. So a report is read as a stranger's: by its own small reader, for the few types
there are, where `marshal` would trust what it is given.
"""

from __future__ import annotations

import socket
import struct
from typing import Any

from anyarch.errors import SandboxError

__all__ = ["Report", "receive_report", "receive_step_report"]

_MAX_BYTES = 1 << 20
_MAX_DEPTH = 4
_HEAD = struct.Struct("=I")
_INT = struct.Struct("<i")  # marshal's numbers have one order on all machines
_CONSTANTS: dict[int, object] = {ord("N"): None, ord("T"): True, ord("F"): False}

Report = int | tuple[Any, ...] | None
"""An errno, or a word with what belongs to it; None is the end."""
_FORMS: dict[str, tuple[type, ...]] = {
    "ended": (int,),
    "exec": (bytes, bytes),
    "listener": (),
    "note": (str,),
    "out of memory": (),
    "refused": (str, bytes, int, bytes),
    "started": (),
    "terminal": (),
}


def receive_step_report(sock: socket.socket, *, peek: bool = False) -> Report:
    """The same of a step's child or its supervisor. Raises `SandboxError` for what they do not say."""
    report = receive_report(sock, peek=peek)
    if report is None or isinstance(report, int):
        return report
    if isinstance(report, tuple) and report and isinstance(report[0], str):
        form = _FORMS.get(report[0])
        if form is not None and tuple(type(item) for item in report[1:]) == form:
            return report
    raise _strange("its form")


def receive_report(sock: socket.socket, *, peek: bool = False) -> Any:
    """The next value that `anyarch.sandbox.supervisor.report.send_frame` sent; None at the end of
    the stream. With `peek` it stays there.

    Raises `SandboxError` for what cannot be one of ours.
    """
    head = _receive(sock, _HEAD.size, peek=peek)
    if len(head) < _HEAD.size:
        return None
    (size,) = _HEAD.unpack(head)
    if size > _MAX_BYTES:
        raise _strange("its size")
    skipped = _HEAD.size if peek else 0
    raw = _receive(sock, skipped + size, peek=peek)[skipped:]
    if len(raw) < size:
        return None
    value, end = _value(raw, 0, 0)
    if end != size:
        raise _strange("its end")
    return value


def _receive(sock: socket.socket, size: int, *, peek: bool) -> bytes:
    parts = bytearray()
    try:
        while size > len(parts):  # a signal cuts it short
            part = sock.recv(size - len(parts), socket.MSG_WAITALL | (socket.MSG_PEEK if peek else 0))
            parts += part
            if peek or not part:
                break
    except ConnectionResetError:  # it was closed with something of ours unread: its end all the same
        return bytes(parts)
    return bytes(parts)


def _value(raw: bytes, at: int, depth: int) -> tuple[Any, int]:
    """The value at a position, and where it ends (marshal's version 0)."""
    kind = raw[at : at + 1]
    if kind and kind[0] in _CONSTANTS:
        return _CONSTANTS[kind[0]], at + 1
    if kind not in (b"i", b"s", b"u", b"(") or at + 5 > len(raw):
        raise _strange("a value")
    (number,) = _INT.unpack_from(raw, at + 1)
    at += 5
    if kind == b"i":
        return number, at
    if not 0 <= number <= len(raw) - at:
        raise _strange("a length")
    if kind == b"(":
        if depth == _MAX_DEPTH:
            raise _strange("its depth")
        items = []
        for _ in range(number):
            item, at = _value(raw, at, depth + 1)
            items.append(item)
        return tuple(items), at
    data = raw[at : at + number]
    return (data if kind == b"s" else data.decode("utf-8", "replace")), at + number


def _strange(what: str) -> SandboxError:
    return SandboxError(f"a step's process sent a report that is none of ours ({what})")
