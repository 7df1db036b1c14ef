"""Sockets that wait in steps, so that they can be cancelled: how they are made, plain and with TLS."""

from __future__ import annotations

import errno
import os
import select
import socket
import time
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from anyarch.http.cancel import STEP_S, check

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from anyarch.http.cancel import Cancel

    Address = tuple[socket.AddressFamily, socket.SocketKind, int, str, Any]
    """As `socket.getaddrinfo` has it."""

__all__ = ["Patience", "PlainSocket", "dial", "first_of", "start_tls"]

S = TypeVar("S", bound=socket.socket)


class Patience:
    """How long a socket waits, and what it looks at meanwhile.

    The socket itself times out every `STEP_S`; its operations are repeated until `idle_s` seconds went by
    without a byte, or `cancel` is set. It has to be done down here: a buffered reader cannot be used again
    after a time-out.
    """

    __slots__ = ("cancel", "idle_s")

    def __init__(self, idle_s: float) -> None:
        self.cancel: Cancel | None = None
        self.idle_s = idle_s

    def run(self, operation: Callable[[], int]) -> int:
        check(self.cancel)
        deadline = 0.0
        while True:
            try:
                return operation()
            except TimeoutError:
                check(self.cancel)
                now = time.monotonic()
                deadline = deadline or now + self.idle_s - STEP_S
                if now >= deadline:
                    raise TimeoutError(f"no answer for {self.idle_s:.0f} seconds") from None


class PlainSocket(socket.socket):
    patience: Patience

    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
        return self.patience.run(partial(socket.socket.recv_into, self, buffer, nbytes, flags))

    def sendall(self, data: Any, flags: int = 0, /) -> None:
        # socket.sendall has one deadline for all of the data and does not say how much went out.
        view = memoryview(data).cast("B")
        while view:
            view = view[self.patience.run(partial(socket.socket.send, self, view, flags)) :]


def _tls_socket_class() -> type[ssl.SSLSocket]:
    import ssl

    class TlsSocket(ssl.SSLSocket):
        patience: Patience | None = None  # None during the handshake

        def recv_into(self, buffer: Any, nbytes: int | None = None, flags: int = 0) -> int:
            return self._patient(partial(ssl.SSLSocket.recv_into, self, buffer, nbytes, flags))

        def send(self, data: Any, flags: int = 0) -> int:  # sendall calls it
            return self._patient(partial(ssl.SSLSocket.send, self, data, flags))

        def _patient(self, operation: Callable[[], int]) -> int:
            return operation() if self.patience is None else self.patience.run(operation)

    return TlsSocket


_tls_class: type[ssl.SSLSocket] | None = None


def start_tls(
    sock: socket.socket,
    context: ssl.SSLContext,
    host: str,
    patience: Patience,
    deadline: float,
    cancel: Cancel | None,
) -> ssl.SSLSocket:
    """TLS over a connected socket, which is the result's from now on. Raises `OSError`, `ValueError`."""
    global _tls_class
    if _tls_class is None:
        _tls_class = _tls_socket_class()
    context.sslsocket_class = _tls_class
    tls = context.wrap_socket(sock, server_hostname=host, do_handshake_on_connect=False)
    while True:
        try:
            tls.do_handshake()
            break
        except TimeoutError:
            check(cancel)
            if time.monotonic() > deadline:
                tls.close()
                raise TimeoutError("the TLS handshake timed out") from None
        except BaseException:
            tls.close()
            raise
    tls.patience = patience  # type: ignore[attr-defined]  # the class is made above
    return tls


def first_of(host: str, port: int, deadline: float, connect: Callable[[Address, float], S]) -> S:
    """What `connect(address, until)` gives for the first address of `host` that it raises no OSError for; the
    time that is left is shared by those that are. Raises the last address's OSError."""
    # As bytes: a str makes Python load its IDNA codec, which takes longer than the whole exchange with a near
    # server.
    name = host.encode("ascii") if host.isascii() else host
    addresses = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)
    last: OSError = OSError(errno.EHOSTUNREACH, "no address")
    for position, address in enumerate(addresses):
        now = time.monotonic()
        try:
            return connect(address, now + max(0.0, deadline - now) / (len(addresses) - position))
        except OSError as error:
            last = error
    raise last


def dial(host: str, port: int, deadline: float, patience: Patience, cancel: Cancel | None) -> PlainSocket:
    """Connect to the first address of `host` that answers. Raises the last address's OSError."""

    def connect(found: Address, until: float) -> PlainSocket:
        family, kind, protocol, _, address = found
        sock = PlainSocket(family, kind, protocol)
        try:
            sock.patience = patience
            sock.settimeout(STEP_S)
            sock.setblocking(False)
            code = sock.connect_ex(address)
            poll = select.poll()
            poll.register(sock, select.POLLOUT)
            while code == errno.EINPROGRESS:
                check(cancel)
                if poll.poll(STEP_S * 1000):
                    code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                elif time.monotonic() > until:
                    code = errno.ETIMEDOUT
            if code:
                raise OSError(code, os.strerror(code))
            sock.settimeout(STEP_S)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return sock
        except BaseException:
            sock.close()
            raise

    return first_of(host, port, deadline, connect)
