"""Bodies of requests on their way from a file or stream to a socket."""

from __future__ import annotations

import os
import select
from typing import TYPE_CHECKING, BinaryIO

from anyarch.http.cancel import STEP_S, check
from anyarch.http.problem import ended_early
from anyarch.http.sockets import PlainSocket

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from anyarch.http.cancel import Cancel
    from anyarch.http.sockets import Patience
    from anyarch.http.tunnel import TunnelledTls

__all__ = ["send_body"]

_CHUNK = 1 << 20


def send_body(
    sock: socket.socket | TunnelledTls,
    stream: BinaryIO,
    size: int,
    patience: Patience,
    *,
    on_progress: Callable[[int], None] | None,
    label: str,
) -> bool:
    """Send `size` bytes of `stream` from where it stands; False when the server answered before it had all.
    Raises `OSError`, `Canceled`, `NetworkError` (kind "body")."""
    is_plain = isinstance(sock, PlainSocket)
    if is_plain and (number := _file_number(stream)) is not None:
        return _send_file(sock, number, stream.tell(), size, patience, on_progress, label)
    return _send_copy(sock, stream, size, patience.cancel, on_progress, label, watch=is_plain)


def _file_number(stream: BinaryIO) -> int | None:
    """The descriptor of a regular file that sendfile can read, past no buffer; None for any other stream."""
    import io

    if not isinstance(stream, io.FileIO | io.BufferedReader):
        return None
    try:
        import stat

        number = stream.fileno()
        return number if stat.S_ISREG(os.fstat(number).st_mode) else None
    except (OSError, ValueError):
        return None


def _send_file(
    sock: socket.socket | TunnelledTls,
    number: int,
    offset: int,
    size: int,
    patience: Patience,
    on_progress: Callable[[int], None] | None,
    label: str,
) -> bool:
    out = sock.fileno()
    poll = select.poll()
    poll.register(out, select.POLLOUT | select.POLLIN)

    def wait() -> int:
        events = poll.poll(STEP_S * 1000)
        if not events:
            raise TimeoutError
        return int(events[0][1])

    left = size
    while left:
        if patience.run(wait) & ~select.POLLOUT:
            return False
        try:
            count = os.sendfile(out, number, offset, min(left, _CHUNK))
        except BlockingIOError:
            continue
        if count == 0:
            raise ended_early(label, left)
        offset += count
        left -= count
        if on_progress is not None:
            on_progress(count)
    return True


def _send_copy(
    sock: socket.socket | TunnelledTls,
    stream: BinaryIO,
    size: int,
    cancel: Cancel | None,
    on_progress: Callable[[int], None] | None,
    label: str,
    *,
    watch: bool,
) -> bool:
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    left = size
    while left:
        check(cancel)
        # Under TLS a readable socket may just hold a session ticket, so an early answer shows only as a
        # reset.
        if watch and poll.poll(0):
            return False
        chunk = stream.read(min(left, _CHUNK))
        if not chunk:
            raise ended_early(label, left)
        sock.sendall(chunk)
        left -= len(chunk)
        if on_progress is not None:
            on_progress(len(chunk))
    return True
