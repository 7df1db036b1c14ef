"""One connection to an HTTP server: sockets that can be cancelled, TLS, proxies, bodies sent from files.

Imported on the first request only; http.client and all that it brings come with this module.
"""

from __future__ import annotations

import errno
import http.client
import os
import re
import select
import socket
import time
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO

from anyarch.errors import NetworkError
from anyarch.http.answer import Answer
from anyarch.http.cancel import STEP_S, check

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Mapping

    from anyarch.http.cancel import Cancel
    from anyarch.http.proxy import Proxy

__all__ = ["Connection", "ended_early", "network_error"]

_CHUNK = 1 << 20
_ONE_SEND = 1 << 16  # bytes of a body that are worth copying to leave with their header
_CONTROL = re.compile(r"[\x00\r\n]")
_UNREACHABLE = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL, errno.ENETDOWN})
_NOT_TLS = frozenset(
    {"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG"}
)


class _Patience:
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


class _PlainSocket(socket.socket):
    patience: _Patience

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
        patience: _Patience | None = None  # None during the handshake

        def recv_into(self, buffer: Any, nbytes: int | None = None, flags: int = 0) -> int:
            return self._patient(partial(ssl.SSLSocket.recv_into, self, buffer, nbytes, flags))

        def send(self, data: Any, flags: int = 0) -> int:  # sendall calls it
            return self._patient(partial(ssl.SSLSocket.send, self, data, flags))

        def _patient(self, operation: Callable[[], int]) -> int:
            return operation() if self.patience is None else self.patience.run(operation)

    return TlsSocket


_tls_class: type[ssl.SSLSocket] | None = None


class Connection:
    """A connection to the server `host`:`port`, perhaps through `proxy`. Used by one thread at a time.

    `context` makes it TLS. Every method raises `NetworkError` or `Canceled`, and nothing else of the network.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        label: str,
        context: ssl.SSLContext | None,
        proxy: Proxy | None,
        connect_timeout_s: float,
        idle_timeout_s: float,
    ) -> None:
        self.label = label
        self.used = False
        self.idle_since = 0.0
        self._host = host
        self._port = port
        self._context = context
        self._proxy = proxy
        self._connect_timeout_s = connect_timeout_s
        self._idle_timeout_s = idle_timeout_s
        self._patience = _Patience(idle_timeout_s)
        self._sock: socket.socket | None = None
        self._method = ""

    def close(self) -> None:
        sock, self._sock = self._sock, None
        if sock is not None:
            sock.close()

    def is_stale(self) -> bool:
        """Whether the server has closed an idle connection (or sent something that nobody asked for)."""
        if self._sock is None:
            return True
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        return bool(poll.poll(0))

    def send(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: bytes | None,
        *,
        cancel: Cancel | None,
        answer_timeout_s: float | None = None,
    ) -> None:
        """Connect if need be and send a request with its (small) body, all in one segment where it fits."""
        self._patience.cancel = cancel
        self._patience.idle_s = answer_timeout_s or self._idle_timeout_s
        try:
            sock = self._sock or self._connect(cancel)
            head = _head(method, target, headers)
            if body and len(body) <= _ONE_SEND:
                head, body = head + body, None
            sock.sendall(head)
            if body:
                sock.sendall(body)
            self._method = method
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise network_error(error, self.label) from None

    def send_stream(
        self, stream: BinaryIO, size: int, *, cancel: Cancel | None, on_progress: Callable[[int], None] | None
    ) -> bool:
        """Send `size` bytes of `stream` from where it stands, as the body of the request that was begun.

        False when the server answered before it had all: the caller reads the answer, and the connection
        cannot be used again. Raises `NetworkError` (kind "body") when the stream ends early.
        """
        sock = self._sock
        assert sock is not None
        try:
            if self._context is None and (number := _file_number(stream)) is not None:
                return _send_file(sock, number, stream.tell(), size, self._patience, on_progress, self.label)
            return _send_copy(
                sock, stream, size, cancel, on_progress, self.label, watch=self._context is None
            )
        except (BrokenPipeError, ConnectionResetError):
            return False  # it may have said why before it closed
        except OSError as error:
            raise network_error(error, self.label) from None

    def receive(self) -> Answer:
        """The answer, up to and including its header."""
        assert self._sock is not None
        response = Answer(self._sock, method=self._method)
        try:
            response.begin()
        except BaseException as error:
            response.close()
            if isinstance(error, (OSError, http.client.HTTPException, ValueError)):
                raise network_error(error, self.label) from None
            raise
        self._patience.idle_s = self._idle_timeout_s
        self.used = True
        return response

    def _connect(self, cancel: Cancel | None) -> socket.socket:
        deadline = time.monotonic() + self._connect_timeout_s
        host, port = (self._proxy.host, self._proxy.port) if self._proxy else (self._host, self._port)
        try:
            sock: socket.socket = _dial(host, port, deadline, self._patience, cancel)
        except (OSError, UnicodeError) as error:
            if self._proxy:
                raise _proxy_error(self._proxy, error) from None
            raise network_error(error, self.label) from None
        try:
            if self._context is not None:
                if self._proxy is not None:
                    self._tunnel(sock, self._proxy)
                sock = self._wrap(sock, self._context, deadline, cancel)
        except BaseException:
            sock.close()
            raise
        self._sock = sock
        return sock

    def _tunnel(self, sock: socket.socket, proxy: Proxy) -> None:
        peer = f"[{self._host}]" if ":" in self._host else self._host
        lines = [f"CONNECT {peer}:{self._port} HTTP/1.1", f"Host: {peer}:{self._port}"]
        if proxy.authorization:
            lines.append(f"Proxy-Authorization: {proxy.authorization}")
        try:
            sock.sendall(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))
            response = Answer(sock, method="CONNECT")
            try:
                response.begin()
            finally:
                response.close()
        except (OSError, http.client.HTTPException) as error:
            raise _proxy_error(proxy, error) from None
        if response.status != 200:
            raise NetworkError(
                f"{self.label}: proxy {proxy.host}:{proxy.port} refused the connection:"
                f" {response.status} {response.reason}",
                kind="proxy",
                host=self.label,
                hint="the proxy comes from HTTPS_PROXY or ALL_PROXY; exceptions go to NO_PROXY",
            )

    def _wrap(
        self, sock: socket.socket, context: ssl.SSLContext, deadline: float, cancel: Cancel | None
    ) -> socket.socket:
        global _tls_class
        if _tls_class is None:
            _tls_class = _tls_socket_class()
        context.sslsocket_class = _tls_class
        tls = context.wrap_socket(sock, server_hostname=self._host, do_handshake_on_connect=False)
        while True:
            try:
                tls.do_handshake()
                break
            except TimeoutError as error:
                check(cancel)
                if time.monotonic() > deadline:
                    raise network_error(error, self.label) from None
            except (OSError, ValueError) as error:
                tls.close()
                raise network_error(error, self.label) from None
        tls.patience = self._patience  # type: ignore[attr-defined]  # the class is made above
        return tls


def _head(method: str, target: str, headers: Mapping[str, str]) -> bytes:
    """A request up to its body. Raises `HTTPException` for what would end a line early."""
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    for line in lines:
        if _CONTROL.search(line):
            raise http.client.HTTPException("a line break in a header")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def _dial(host: str, port: int, deadline: float, patience: _Patience, cancel: Cancel | None) -> _PlainSocket:
    """Connect to the first address of `host` that answers. Raises the last address's OSError."""
    # As bytes: a str makes Python load its IDNA codec, which takes longer than the whole exchange with a near
    # server.
    name = host.encode("ascii") if host.isascii() else host
    addresses = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)
    last: OSError = OSError(errno.EHOSTUNREACH, "no address")
    for position, (family, kind, protocol, _, address) in enumerate(addresses):
        now = time.monotonic()
        until = now + max(0.0, deadline - now) / (len(addresses) - position)
        sock = _PlainSocket(family, kind, protocol)
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
        except OSError as error:
            sock.close()
            last = error
        except BaseException:
            sock.close()
            raise
    raise last


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
    sock: socket.socket,
    number: int,
    offset: int,
    size: int,
    patience: _Patience,
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
    sock: socket.socket,
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


def ended_early(label: str, left: int) -> NetworkError:
    """What a body comes to that lacks `left` bytes."""
    return NetworkError(
        f"{label}: what was to be sent is {left} bytes shorter than announced", kind="body", host=label
    )


def _proxy_error(proxy: Proxy, error: Exception) -> NetworkError:
    found = network_error(error, f"{proxy.host}:{proxy.port}")
    return NetworkError(
        f"proxy {found.message}",
        kind=found.kind,
        host=found.host,
        hint="the proxy comes from HTTP_PROXY, HTTPS_PROXY or ALL_PROXY; exceptions go to NO_PROXY",
    )


def network_error(error: Exception, label: str) -> NetworkError:
    """What the standard library raised, as a `NetworkError` in words; `label` is the host."""
    kind, text = _classify(error)
    return NetworkError(f"{label}: {text}", kind=kind, host=label)


def _classify(error: Exception) -> tuple[str, str]:
    match error:
        case socket.gaierror():
            return "dns", "name lookup failed"
        case ConnectionRefusedError():
            return "refused", "connection refused"
        case http.client.RemoteDisconnected():
            return "closed", "connection closed before an answer came"
        case http.client.BadStatusLine():
            if "\\x15\\x03" in str(error) or "\x15\x03" in str(error):  # the start of a TLS alert record
                return "only_tls", "the server speaks HTTPS, not plain HTTP"
            return "protocol", f"not an HTTP answer: {str(error)[:60]}"
        case http.client.IncompleteRead():
            return "closed", "connection closed in the middle of an answer"
        case http.client.HTTPException():
            return "protocol", f"malformed HTTP answer ({type(error).__name__})"
        case ConnectionResetError() | BrokenPipeError() | ConnectionAbortedError():
            return "reset", "connection reset"
        case TimeoutError():
            return "timeout", str(error) if error.args and error.errno is None else "connection timed out"
        case UnicodeError():
            return "protocol", "invalid host name"
    if isinstance(error, OSError):
        if error.errno in _UNREACHABLE:
            return "refused", (error.strerror or "unreachable").lower()
        tls = _classify_tls(error)
        if tls is not None:
            return tls
        return "other", (error.strerror or str(error) or type(error).__name__).lower()
    return "protocol", str(error)


def _classify_tls(error: OSError) -> tuple[str, str] | None:
    import ssl

    if isinstance(error, ssl.SSLCertVerificationError):
        return "tls", f"its certificate is not trusted: {error.verify_message}"
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return "reset", "connection closed during the TLS handshake"
    if isinstance(error, ssl.SSLError):
        if error.reason in _NOT_TLS:
            return "not_tls", "the server speaks plain HTTP, not HTTPS"
        return "tls", f"TLS: {(error.reason or str(error)).replace('_', ' ').lower()}"
    return None
