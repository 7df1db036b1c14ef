"""Where requests go: a connection to a server, kept for the next request to the same one."""

from __future__ import annotations

import re
import select
import ssl
import threading
import time
from typing import TYPE_CHECKING, Protocol

import msgspec

from anyarch.http.intercept.message import CHUNKED, UNTIL_CLOSE, Body, Broken, Head, Wire, chunk, length_of
from anyarch.http.intercept.request import for_server

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from anyarch.http.intercept.egress import Egress
    from anyarch.http.intercept.request import Request
    from anyarch.http.intercept.target import Target

__all__ = ["Answer", "ClientGone", "Sockets", "Upstream", "Verifier"]

_HANDSHAKE_S = 30.0
_KEPT_S = 30.0
_MOST_INTERIM = 16
_STATUS = re.compile(r"HTTP/1\.[01] ([1-5][0-9]{2})( .*)?")


class Sockets(Protocol):
    """Those of one connection of a step, which all end with it."""

    def keep(self, sock: socket.socket) -> None:
        """Raises `Broken` where it has ended already."""

    def forget(self, sock: socket.socket) -> None:
        """Close it."""


class Answer(msgspec.Struct, frozen=True):
    """`length` is of its body; `is_alone`: nothing can follow it. `is_early`: it came before the request had
    been sent."""

    head: Head
    status: int
    reason: str
    length: int
    is_alone: bool
    is_early: bool = False


class Upstream:
    """For one thread."""

    def __init__(
        self, egress: Egress, tls: Callable[[], ssl.SSLContext], sockets: Sockets, *, idle_s: float
    ) -> None:
        self._egress = egress
        self._tls = tls
        self._sockets = sockets
        self._idle_s = idle_s
        self._wire: Wire | None = None
        self._origin: tuple[str, str, int] | None = None
        self._kept_since = 0.0

    def ask(self, request: Request, target: Target, client: Wire) -> Answer:
        """Send a request, its body as it comes from `client`, and read the head of the answer. Raises
        OSError, `Broken`, `Refusal`; `ClientGone` where the body did not come."""
        is_kept = self._is_usable(target)
        while True:
            if not is_kept:
                self.drop()
                self._connect(target)
            wire = self._wire
            assert wire is not None
            try:
                wire.send(for_server(request, target))
                is_early = not self._send_body(request, client, wire)
                return self._read_answer(request, wire, is_early=is_early)
            except (OSError, Broken) as error:
                # It may have closed it just then; what changes nothing is asked again.
                if not is_kept or not request.may_be_repeated or isinstance(error, ClientGone):
                    raise
                is_kept = False

    def body(self, answer: Answer) -> Body:
        assert self._wire is not None
        return Body(self._wire, answer.length)

    def done(self, answer: Answer) -> None:
        """The body has been read."""
        if answer.is_alone or answer.is_early:
            self.drop()
        else:
            self._kept_since = time.monotonic()

    def drop(self) -> None:
        wire, self._wire = self._wire, None
        if wire is not None:
            self._sockets.forget(wire.sock)

    def _is_usable(self, target: Target) -> bool:
        wire = self._wire
        if wire is None or self._origin != target.origin or wire.has_ahead:
            return False
        if time.monotonic() - self._kept_since > _KEPT_S:
            return False
        # What nobody has asked for, or its end; a session ticket of TLS too, which is no loss.
        return not _is_readable(wire.sock)

    def _connect(self, target: Target) -> None:
        sock = self._egress.connect(target.host, target.port, self._sockets.keep)
        if target.scheme == "https":
            try:
                tls = self._tls().wrap_socket(
                    sock, server_hostname=target.host, do_handshake_on_connect=False
                )
            except BaseException:
                self._sockets.forget(sock)
                raise
            self._sockets.keep(tls)
            self._sockets.forget(sock)
            sock = tls
        self._wire, self._origin = Wire(sock, idle_s=self._idle_s), target.origin
        if isinstance(sock, ssl.SSLSocket):
            sock.settimeout(_HANDSHAKE_S)
            sock.do_handshake()

    def _send_body(self, request: Request, client: Wire, wire: Wire) -> bool:
        """False where the server answers before it has all."""
        if not request.length:
            return True
        if request.waits:
            client.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = Body(client, request.length)
        is_plain = not isinstance(wire.sock, ssl.SSLSocket)
        while True:
            try:
                data = body.read()
            except (OSError, Broken) as error:
                raise ClientGone(str(error)) from None
            if not data:
                break
            if is_plain and _is_readable(wire.sock):
                return False
            wire.send(chunk(data) if request.length == CHUNKED else data)
        if request.length == CHUNKED:
            wire.send(b"0\r\n\r\n")
        return True

    def _read_answer(self, request: Request, wire: Wire, *, is_early: bool) -> Answer:
        for _ in range(_MOST_INTERIM):
            head = wire.head(whole_s=self._idle_s, is_lenient=True)
            if head is None:
                raise Broken("it closed the connection without an answer")
            found = _STATUS.fullmatch(head.start)
            if found is None:
                raise Broken("what it says is no HTTP")
            status = int(found[1])
            if status == 101:
                raise Broken("it changes the protocol unasked")
            if status < 200:
                continue
            stated = length_of(head, 502)
            length = UNTIL_CLOSE if stated is None else stated
            if request.method == "HEAD" or status in (204, 304):
                length = 0
            words = head.words("connection")
            is_old = head.start.startswith("HTTP/1.0") and "keep-alive" not in words
            is_alone = length == UNTIL_CLOSE or "close" in words or is_old
            return Answer(head, status, (found[2] or "")[1:], length, is_alone, is_early)
        raise Broken("it only says that an answer will come")


class Verifier:
    """Gives the context that servers are checked with, by the machine's authorities; made when it is first
    wanted. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._context: ssl.SSLContext | None = None

    def __call__(self) -> ssl.SSLContext:
        with self._lock:
            if self._context is None:
                from anyarch.http.client import Tls
                from anyarch.http.tls import make_context

                self._context = make_context(Tls())
            return self._context


class ClientGone(Broken):
    """Half a request has no answer."""


def _is_readable(sock: socket.socket) -> bool:
    if isinstance(sock, ssl.SSLSocket) and sock.pending():
        return True
    poll = select.poll()  # which knows descriptors of any number
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(0))
