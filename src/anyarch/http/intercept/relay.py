"""One connection of a step to the proxy: request after request, in the clear or inside of TLS."""

from __future__ import annotations

import hashlib
import socket
import ssl
import struct
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urljoin, urlsplit

from anyarch.http.intercept.egress import error_text
from anyarch.http.intercept.message import Broken, Head, Wire, chunk, end_to_end
from anyarch.http.intercept.request import request_of, start_of
from anyarch.http.intercept.target import Refusal, authority, target_of
from anyarch.http.intercept.traffic import Missing, Passed
from anyarch.http.intercept.upstream import ClientGone, Upstream

if TYPE_CHECKING:
    from collections.abc import Callable

    from anyarch.http.intercept.authority import Authority
    from anyarch.http.intercept.egress import Egress
    from anyarch.http.intercept.request import Request
    from anyarch.http.intercept.target import Target
    from anyarch.http.intercept.traffic import Recorder
    from anyarch.http.intercept.upstream import Answer

__all__ = ["Denied", "Outside", "Policy", "Relay"]

_IDLE_S = 600.0
_HEAD_S = 30.0
_HANDSHAKE_S = 30.0
_LINGER_S = 1.0
_FORBIDDEN = "Forbidden"
_REASONS = {
    400: "Bad Request",
    403: "Forbidden",
    408: "Request Timeout",
    421: "Misdirected Request",
    431: "Request Header Fields Too Large",
    502: "Bad Gateway",
    505: "HTTP Version Not Supported",
}


class Denied(Exception):
    """A policy does not allow a request."""


class Policy(Protocol):
    def __call__(self, url: str) -> str:
        """The address to be asked instead, mostly the same. May block. Raises `Denied`."""


class Outside:
    """What all connections of a step share."""

    def __init__(
        self,
        egress: Egress,
        authority: Authority,
        recorder: Recorder,
        *,
        tls: Callable[[], ssl.SSLContext],
        policy: Policy | None,
    ) -> None:
        self.egress = egress
        self.authority = authority
        self.recorder = recorder
        self.tls = tls
        self.policy = policy


class Relay:
    """On a thread of its own: `serve` returns when the connection has ended. `close` ends it from another."""

    def __init__(self, sock: socket.socket, outside: Outside) -> None:
        self._outside = outside
        self._wire = Wire(sock, idle_s=_IDLE_S)
        self._tunnel: tuple[str, int] | None = None
        self._upstream = Upstream(outside.egress, outside.tls, self, idle_s=_IDLE_S)
        self._lock = threading.Lock()
        self._is_closed = False
        self._sockets = {sock}
        self._current: tuple[str, str] | None = None
        self.is_idle = True
        """Whether it waits for a request."""

    def close(self) -> None:
        with self._lock:
            self._is_closed = True
            for sock in self._sockets:
                with suppress(OSError):
                    # Not SSLSocket's own, after which the thread that uses it would go on in the clear.
                    socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def unfinished(self) -> None:
        """Say of a request that is still under way that its answer is not known."""
        current = self._current
        if current is not None:
            self._outside.recorder.missing(Missing(*current, _unfit(current[0]) or "body_read_failed"))

    def serve(self) -> None:
        try:
            while self._next():
                pass
        except (OSError, Broken, ValueError):
            return  # whoever it was is gone
        finally:
            self._upstream.drop()
            self.forget(self._wire.sock)

    def keep(self, sock: socket.socket) -> None:
        with self._lock:
            if not self._is_closed:
                self._sockets.add(sock)
                return
        sock.close()
        raise Broken("the step has ended")

    def forget(self, sock: socket.socket) -> None:
        with self._lock:
            self._sockets.discard(sock)
            sock.close()

    def _next(self) -> bool:
        """One request; False when there comes no other."""
        self.is_idle = True
        try:
            head = self._wire.head(whole_s=_HEAD_S)
            self.is_idle = False
            if head is None:
                return False
            method, where, _ = start_of(head)
            if method == "CONNECT" and self._tunnel is None:
                self._enter_tunnel(*authority(where, 443))
                return True
            return self._pass(request_of(head, self._tunnel))
        except Refusal as refusal:
            self._refuse(refusal.status, refusal.text)
            return False

    def _enter_tunnel(self, host: str, port: int) -> None:
        if self._wire.has_ahead:
            raise Refusal(400, "data before the tunnel stands")
        context = self._outside.authority.context(host)
        self._wire.send(b"HTTP/1.1 200 Connection Established\r\n\r\n")
        plain = self._wire.sock
        plain.settimeout(_HANDSHAKE_S)
        tls = context.wrap_socket(plain, server_side=True, do_handshake_on_connect=False)
        self.keep(tls)
        self.forget(plain)
        self._wire = Wire(tls, idle_s=_IDLE_S)
        tls.do_handshake()
        self._tunnel = host, port

    # requests ---------------------------------------------------------------------------------------

    def _pass(self, request: Request) -> bool:
        """Whether there may come another. Raises `Refusal` for what is not sent anywhere."""
        recorder, method = self._outside.recorder, request.method
        target = self._decided(request)
        self._current = method, target.url
        try:
            try:
                answer = self._upstream.ask(request, target, self._wire)
            except ClientGone:
                recorder.missing(Missing(method, target.url, _unfit(method) or "body_read_failed"))
                raise
            except (OSError, Broken, Refusal, ValueError) as error:  # the last: a name that TLS cannot have
                recorder.passed(Passed(method, target.url, 502))
                recorder.missing(Missing(method, target.url, "upstream_error"))
                self._upstream.drop()
                raise Refusal(502, f"{target.host}: {_text(error)}") from None
            recorder.passed(Passed(method, target.url, answer.status, _leads(target, answer.head)))
            if not self._answer(request, target, answer):
                return False
        finally:
            self._current = None
        if request.wants_more and not answer.is_early:
            return True
        self._linger()
        return False

    def _decided(self, request: Request) -> Target:
        policy, target = self._outside.policy, request.target
        if policy is None:
            return target
        try:
            url = policy(target.url)
            if url == target.url:
                return target
            if request.method != "GET":
                raise Denied("only GET can be converted")
            return target_of(url)
        except (Denied, Refusal):
            self._outside.recorder.passed(Passed(request.method, target.url, 403))
            raise Refusal(403, _FORBIDDEN) from None

    def _answer(self, request: Request, target: Target, answer: Answer) -> bool:
        """Pass the answer on, and write down what it is. False where that failed."""
        recorder = self._outside.recorder
        reason = _unfit(request.method) or _partial(request, answer.status)
        if not reason and answer.status >= 400:
            reason = "unsuccessful_response"
        is_chunked = answer.length < 0 and request.is_http11
        pending = _for_client(request, answer, is_chunked=is_chunked)
        number = 0
        is_written_down = False
        try:
            body, hashed = self._upstream.body(answer), hashlib.sha256()
            while not body.is_done:
                data = body.read()
                hashed.update(data)
                pending += chunk(data) if is_chunked and data else data
                if not body.is_done:
                    self._wire.send(pending)
                    pending = b""
            if is_chunked:
                pending += b"0\r\n\r\n"
            # Before the step can know that it has all, so that it is there when the step ends.
            is_written_down = True
            if reason:
                recorder.missing(Missing(request.method, target.url, reason))
            elif 200 <= answer.status < 300:
                number = recorder.material(target.url, f"sha256:{hashed.hexdigest()}")
            self._wire.send(pending)
        except (OSError, Broken):
            recorder.take_back(number)
            if number or not is_written_down:
                recorder.missing(Missing(request.method, target.url, reason or "body_read_failed"))
            self._upstream.drop()
            self._abort()
            return False
        self._upstream.done(answer)
        return True

    # ends -------------------------------------------------------------------------------------------

    def _refuse(self, status: int, text: str) -> None:
        body = f"{text}\n".encode("utf-8", "replace")
        fields = (
            ("Content-Type", "text/plain; charset=utf-8"),
            ("X-Content-Type-Options", "nosniff"),
            ("Content-Length", str(len(body))),
            ("Connection", "close"),
        )
        with suppress(OSError):
            self._wire.send(Head(f"HTTP/1.1 {status} {_REASONS[status]}", fields).encode() + body)
            self._linger()

    def _linger(self) -> None:
        """What it may have sent beyond is read for a moment, else the kernel takes the answer back."""
        sock = self._wire.sock
        with suppress(OSError):
            if isinstance(sock, ssl.SSLSocket):
                sock.settimeout(_LINGER_S)
                sock.unwrap()
                return
            sock.shutdown(socket.SHUT_WR)
            until = time.monotonic() + _LINGER_S
            while (left := until - time.monotonic()) > 0:
                sock.settimeout(left)
                if not sock.recv(1 << 16):
                    return

    def _abort(self) -> None:
        """The step must not take half of an answer for the whole."""
        with suppress(OSError):
            self._wire.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _for_client(request: Request, answer: Answer, *, is_chunked: bool) -> bytes:
    """The head of an answer as the step gets it."""
    fields = end_to_end(answer.head)
    stated = answer.head.all("content-length")
    if is_chunked:
        fields.append(("Transfer-Encoding", "chunked"))
    elif answer.length > 0 or (stated and request.method == "HEAD"):
        fields.append(("Content-Length", stated[0]))
    elif answer.length == 0 and request.method != "HEAD" and answer.status not in (204, 304):
        fields.append(("Content-Length", "0"))
    if not request.wants_more or answer.is_early:
        fields.append(("Connection", "close"))
    return Head(f"HTTP/1.1 {answer.status} {answer.reason}", tuple(fields)).encode()


def _leads(target: Target, head: Head) -> str:
    """Where an answer leads, as requests are written down."""
    location = head.get("location").partition("#")[0]
    if not location:
        return ""
    try:
        return target_of(urljoin(target.url, location)).url
    except (Refusal, ValueError):
        with suppress(ValueError):
            parts = urlsplit(location)
            return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
        return ""


def _unfit(method: str) -> str:
    """Why its answer is no material whatever it is."""
    return "" if method == "GET" else "method_not_materializable"


def _partial(request: Request, status: int) -> str:
    return "partial_response" if request.head.get("range") or status == 206 else ""


def _text(error: Exception) -> str:
    if isinstance(error, Refusal):
        return error.text
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate verification failed: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"TLS: {(error.reason or str(error)).replace('_', ' ').lower()}"
    return error_text(error) if isinstance(error, OSError) else str(error)
