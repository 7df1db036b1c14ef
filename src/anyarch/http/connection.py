"""One connection to an HTTP server: sockets that can be cancelled, TLS, proxies, bodies sent from files.

Imported on the first request only; http.client and all that it brings come with this module.
"""

from __future__ import annotations

import http.client
import re
import select
import time
from typing import TYPE_CHECKING, BinaryIO

from anyarch.errors import NetworkError
from anyarch.http.answer import Answer
from anyarch.http.body import send_body
from anyarch.http.problem import network_error
from anyarch.http.sockets import Patience, dial, start_tls

if TYPE_CHECKING:
    import socket
    import ssl
    from collections.abc import Callable, Mapping

    from anyarch.http.cancel import Cancel
    from anyarch.http.proxy import Proxy
    from anyarch.http.tunnel import TunnelledTls

__all__ = ["Connection"]

_ONE_SEND = 1 << 16  # bytes of a body that are worth copying to leave with their header
_CONTROL = re.compile(r"[\x00\r\n]")


class Connection:
    """A connection to the server `host`:`port`, perhaps through `proxy`. Used by one thread at a time.

    `context` makes it TLS, `proxy_context` is for a proxy that is reached by TLS. Every method
    raises `NetworkError` or `Canceled`, and nothing else of the network.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        label: str,
        context: ssl.SSLContext | None,
        proxy: Proxy | None,
        proxy_context: ssl.SSLContext | None,
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
        self._proxy_context = proxy_context
        self._connect_timeout_s = connect_timeout_s
        self._idle_timeout_s = idle_timeout_s
        self._patience = Patience(idle_timeout_s)
        self._sock: socket.socket | TunnelledTls | None = None
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

    def send_stream(self, stream: BinaryIO, size: int, *, on_progress: Callable[[int], None] | None) -> bool:
        """Send `size` bytes of `stream` from where it stands, as the body of the request that was begun.

        False when the server answered before it had all: the caller reads the answer, and the connection
        cannot be used again. Raises `NetworkError` (kind "body") when the stream ends early.
        """
        sock = self._sock
        assert sock is not None
        try:
            return send_body(sock, stream, size, self._patience, on_progress=on_progress, label=self.label)
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

    def _connect(self, cancel: Cancel | None) -> socket.socket | TunnelledTls:
        deadline = time.monotonic() + self._connect_timeout_s
        proxy = self._proxy
        if proxy is None:
            sock = self._dial(self._host, self._port, self.label, deadline, cancel)
        else:
            try:
                sock = self._dial(proxy.host, proxy.port, proxy.label, deadline, cancel)
                if self._proxy_context is not None:
                    sock = self._start_tls(
                        sock, self._proxy_context, proxy.host, proxy.label, deadline, cancel
                    )
            except NetworkError as error:
                raise _proxy_error(error) from None
        found: socket.socket | TunnelledTls = sock
        if self._context is not None:
            try:
                if proxy is not None:
                    self._tunnel(sock, proxy)
                if self._proxy_context is None:
                    found = self._start_tls(sock, self._context, self._host, self.label, deadline, cancel)
                else:
                    found = self._tls_in_tls(sock, self._context)
            except BaseException:
                sock.close()
                raise
        self._sock = found
        return found

    def _dial(
        self, host: str, port: int, label: str, deadline: float, cancel: Cancel | None
    ) -> socket.socket:
        try:
            return dial(host, port, deadline, self._patience, cancel)
        except (OSError, UnicodeError) as error:
            raise network_error(error, label) from None

    def _start_tls(
        self,
        sock: socket.socket,
        context: ssl.SSLContext,
        host: str,
        label: str,
        deadline: float,
        cancel: Cancel | None,
    ) -> socket.socket:
        try:
            return start_tls(sock, context, host, self._patience, deadline, cancel)
        except (OSError, ValueError) as error:
            raise network_error(error, label) from None

    def _tls_in_tls(self, sock: socket.socket, context: ssl.SSLContext) -> TunnelledTls:
        import ssl

        from anyarch.http.tunnel import TunnelledTls

        assert isinstance(sock, ssl.SSLSocket)
        try:
            return TunnelledTls(sock, context, self._host)
        except (OSError, ValueError) as error:
            raise network_error(error, self.label) from None

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
            raise _proxy_error(network_error(error, proxy.label)) from None
        if response.status != 200:
            raise NetworkError(
                f"{self.label}: proxy {proxy.label} refused the connection:"
                f" {response.status} {response.reason}",
                kind="proxy",
                host=self.label,
                hint=_WHO if response.status == 407 else _WHERE,
            )


def _head(method: str, target: str, headers: Mapping[str, str]) -> bytes:
    """A request up to its body. Raises `HTTPException` for what would end a line early."""
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    for line in lines:
        if _CONTROL.search(line):
            raise http.client.HTTPException("a line break in a header")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


_WHERE = "the proxy comes from HTTP_PROXY, HTTPS_PROXY or ALL_PROXY; exceptions go to NO_PROXY"
_WHO = (
    "it wants a name and a password: HTTPS_PROXY=http://NAME:PASSWORD@HOST:PORT (special characters as %XX)"
)


def _proxy_error(found: NetworkError) -> NetworkError:
    hint = _WHERE
    if found.kind == "tls":
        hint = "its CA is looked for where the system has them; SSL_CERT_FILE names another file"
    elif found.kind == "not_tls":
        hint = "write http:// instead of https:// for it in HTTP_PROXY, HTTPS_PROXY or ALL_PROXY"
    elif found.kind in ("only_tls", "closed", "reset"):
        hint = f"does it want https://, or http://? {_WHERE}"
    kind = found.kind if found.kind not in ("not_tls", "only_tls") else "proxy"
    return NetworkError(f"proxy {found.message}", kind=kind, host=found.host, hint=hint)
