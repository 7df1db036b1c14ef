"""The HTTP client: keeps connections, follows redirects, repeats what failed. Thread-safe, synchronous.

Importing this module is cheap; the machinery below it is loaded by the first request.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import urljoin, urlsplit

import msgspec

from anyarch.errors import NetworkError
from anyarch.http.cancel import STEP_S, check, pause
from anyarch.http.retry import RETRY_STATUSES, RetryPolicy, retry_after_s
from anyarch.version import __version__

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping
    from urllib.parse import SplitResult

    from anyarch.http.answer import Answer
    from anyarch.http.cancel import Cancel
    from anyarch.http.connection import Connection
    from anyarch.http.proxy import Proxy
    from anyarch.http.response import Response

__all__ = ["DEFAULT_TLS", "FileBody", "HttpClient", "Tls"]

_PORTS = {"http": 80, "https": 443}
_MAX_REDIRECTS = 10
_ONE_PIECE = 1 << 16  # bytes of a streamed body that leave together with their header
_UNSOUND = re.compile(r"[\x00-\x20\x7f]")
_MAX_IDLE_S = 50.0  # servers and middle boxes drop idle connections after 60 s and more


class Tls(msgspec.Struct, frozen=True):
    """How a server is trusted. `ca` are files or directories of certificates besides the system's; `keypairs`
    are (certificate, key) files that we show."""

    verify: bool = True
    ca: tuple[str, ...] = ()
    keypairs: tuple[tuple[str, str], ...] = ()


DEFAULT_TLS = Tls()


class FileBody(msgspec.Struct, frozen=True):
    """A body that is streamed. `open_` gives a new stream, which is closed after use; `size` bytes from
    `offset` on are sent. `on_progress` gets the bytes of each piece, and a negative number when a try was
    lost."""

    open_: Callable[[], BinaryIO]
    size: int
    offset: int = 0
    on_progress: Callable[[int], None] | None = None


class _Target(msgspec.Struct, frozen=True):
    """What connections are pooled by."""

    scheme: str
    host: str
    port: int
    tls: Tls

    @property
    def label(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"


class HttpClient:
    """At most `connections` exchanges run at once with one server; others wait for their turn."""

    def __init__(
        self,
        *,
        env: Mapping[str, str] | None = None,
        connections: int = 8,
        connect_timeout_s: float = 15.0,
        idle_timeout_s: float = 60.0,
        retry: RetryPolicy | None = None,
        on_retry: Callable[[str], None] | None = None,
    ) -> None:
        """`env` stands in for os.environ (proxies). `on_retry` gets a line of text for each repeated try."""
        self._env = env
        self._connections = connections
        self._connect_timeout_s = connect_timeout_s
        self._idle_timeout_s = idle_timeout_s
        self.retry = retry or RetryPolicy()
        self._on_retry = on_retry
        self._lock = threading.Lock()
        self._idle: dict[_Target, list[Connection]] = {}
        self._slots: dict[tuple[str, int], threading.Semaphore] = {}
        self._contexts: dict[Tls, ssl.SSLContext] = {}

    def close(self) -> None:
        """Close the idle connections. The client can be used again afterwards."""
        with self._lock:
            connections = [c for kept in self._idle.values() for c in kept]
            self._idle.clear()
        for connection in connections:
            connection.close()

    def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | FileBody | None = None,
        tls: Tls = DEFAULT_TLS,
        cancel: Cancel | None = None,
        retry: RetryPolicy | None = None,
        answer_timeout_s: float | None = None,
        whole: int = 0,
    ) -> Response:
        """Exchange until an answer comes that is worth keeping; the last one whatever it is.

        Answers of every status are returned; 429 and 5xx only after the retries. `answer_timeout_s` is how
        long the server may take to answer once it has the whole request. With `whole` the answer's body, of
        at most so many bytes, is read here, so that one that breaks off is asked for again;
        `Response.read_all` gives it. Raises `NetworkError`, `Canceled`.
        """
        policy = retry or self.retry
        started = time.monotonic()
        failures = 0
        while True:
            after_s: float | None = None
            problem: NetworkError | None = None
            response: Response | None = None
            try:
                response = self.exchange(
                    method,
                    url,
                    headers=headers,
                    body=body,
                    tls=tls,
                    cancel=cancel,
                    answer_timeout_s=answer_timeout_s,
                )
                if whole and response.status == 200:
                    response.preload(whole)
            except NetworkError as error:
                problem, reason = error, error.message
                if response is not None:
                    response.close()
                    response = None
            else:
                if response.status not in RETRY_STATUSES:
                    return response
                after_s = retry_after_s(response.headers.get("Retry-After"), time.time())
                reason = f"{urlsplit(response.url).netloc}: {response.status} {response.reason}"
            failures += 1
            kind = problem.kind if problem else ""
            delay = policy.delay(failures, time.monotonic() - started, kind=kind, after_s=after_s)
            if delay is None:
                if response is not None:
                    return response
                assert problem is not None
                raise problem
            if response is not None:
                response.discard()
            if self._on_retry is not None:
                self._on_retry(f"{reason}; trying again in {delay:.1f} s")
            pause(delay, cancel)

    def exchange(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | FileBody | None = None,
        tls: Tls = DEFAULT_TLS,
        cancel: Cancel | None = None,
        answer_timeout_s: float | None = None,
    ) -> Response:
        """One try: send, follow redirects, return the answer. `Authorization` does not leave the first
        server."""
        sent = dict(headers or {})
        for _ in range(_MAX_REDIRECTS):
            response = self._once(method, url, sent, body, tls, cancel, answer_timeout_s)
            location = response.headers.get("Location")
            if not location or not _is_redirect(response.status, method):
                return response
            response.discard()
            following = urljoin(url, location)
            if _origin(following) != _origin(url):
                sent = {k: v for k, v in sent.items() if k.lower() not in ("authorization", "cookie")}
            url = following
        raise NetworkError(f"{urlsplit(url).netloc}: more than {_MAX_REDIRECTS} redirects", kind="protocol")

    def _once(
        self,
        method: str,
        url: str,
        headers: dict[str, str],
        body: bytes | FileBody | None,
        tls: Tls,
        cancel: Cancel | None,
        answer_timeout_s: float | None,
    ) -> Response:
        parts, target = _split(url, tls)
        proxy = self._proxy(target)
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        # No transfer of compressed forms: a blob's bytes are what its digest is of.
        sent = {
            "Host": target.label,
            "User-Agent": f"anyarch/{__version__}",
            "Accept-Encoding": "identity",
            **headers,
        }
        if proxy is not None and target.scheme == "http":
            path = f"http://{target.label}{path}"
            if proxy.authorization:
                sent["Proxy-Authorization"] = proxy.authorization
        if isinstance(body, FileBody):
            sent["Content-Length"] = str(body.size)
        elif body is not None or method in ("POST", "PUT", "PATCH"):
            sent["Content-Length"] = str(len(body or b""))

        slot = self._slot(target)
        _acquire(slot, cancel)
        connection: Connection | None = None
        try:
            while True:
                connection = self._take(target, proxy)
                was_used = connection.used
                try:
                    raw = _converse(connection, method, path, sent, body, cancel, answer_timeout_s)
                    break
                except NetworkError as error:
                    connection.close()
                    # The server may have closed a kept connection just as we used it again: not a failure of
                    # its own.
                    # (A streamed body is another matter: a part of it may have arrived.)
                    if not (was_used and error.kind in ("closed", "reset")) or isinstance(body, FileBody):
                        raise
        except BaseException:
            if connection is not None:
                connection.close()
            slot.release()
            raise
        kept = connection

        def finish(reusable: bool) -> None:
            if reusable:
                self._put_back(target, kept)
            else:
                kept.close()
            slot.release()

        from anyarch.http.response import Response

        return Response(raw, url, target.label, finish)

    def _slot(self, target: _Target) -> threading.Semaphore:
        key = (target.host, target.port)
        with self._lock:
            slot = self._slots.get(key)
            if slot is None:
                slot = self._slots[key] = threading.BoundedSemaphore(self._connections)
            return slot

    def _take(self, target: _Target, proxy: Proxy | None) -> Connection:
        oldest = time.monotonic() - _MAX_IDLE_S
        while True:
            with self._lock:
                kept = self._idle.get(target)
                connection = kept.pop() if kept else None
            if connection is None:
                break
            if connection.idle_since >= oldest and not connection.is_stale():
                return connection
            connection.close()
        from anyarch.http.connection import Connection

        return Connection(
            target.host,
            target.port,
            label=target.label,
            context=self._context(target.tls) if target.scheme == "https" else None,
            proxy=proxy,
            proxy_context=self._context(DEFAULT_TLS) if proxy is not None and proxy.is_tls else None,
            connect_timeout_s=self._connect_timeout_s,
            idle_timeout_s=self._idle_timeout_s,
        )

    def _put_back(self, target: _Target, connection: Connection) -> None:
        connection.idle_since = time.monotonic()
        with self._lock:
            self._idle.setdefault(target, []).append(connection)

    def _proxy(self, target: _Target) -> Proxy | None:
        env = os.environ if self._env is None else self._env
        if not any(env.get(n) or env.get(n.upper()) for n in (f"{target.scheme}_proxy", "all_proxy")):
            return None
        from anyarch.http.proxy import proxy_for

        return proxy_for(env, target.scheme, target.host, target.port)

    def _context(self, tls: Tls) -> ssl.SSLContext:
        with self._lock:
            context = self._contexts.get(tls)
            if context is None:
                from anyarch.http.tls import make_context

                context = self._contexts[tls] = make_context(tls)
            return context


def _converse(
    connection: Connection,
    method: str,
    path: str,
    headers: dict[str, str],
    body: bytes | FileBody | None,
    cancel: Cancel | None,
    answer_timeout_s: float | None,
) -> Answer:
    if not isinstance(body, FileBody):
        connection.send(method, path, headers, body, cancel=cancel, answer_timeout_s=answer_timeout_s)
        return connection.receive()
    sent = 0

    def on_progress(count: int) -> None:
        nonlocal sent
        sent += count
        if body.on_progress is not None:
            body.on_progress(count)

    is_complete = False
    try:
        with body.open_() as stream:
            if body.offset:
                stream.seek(body.offset)
            if body.size <= _ONE_PIECE:
                content = _read_all(stream, body.size, connection.label)
                connection.send(
                    method, path, headers, content, cancel=cancel, answer_timeout_s=answer_timeout_s
                )
                on_progress(body.size)
                is_complete = True
            else:
                connection.send(method, path, headers, None, cancel=cancel, answer_timeout_s=answer_timeout_s)
                is_complete = connection.send_stream(stream, body.size, on_progress=on_progress)
        response = connection.receive()
        if not is_complete:
            response.will_close = True
        return response
    except BaseException:
        is_complete = False
        raise
    finally:
        if not is_complete and sent and body.on_progress is not None:
            body.on_progress(-sent)


def _read_all(stream: BinaryIO, size: int, label: str) -> bytes:
    parts = []
    left = size
    while left and (part := stream.read(left)):
        parts.append(part)
        left -= len(part)
    if left:
        from anyarch.http.problem import ended_early

        raise ended_early(label, left)
    return b"".join(parts)


def _acquire(slot: threading.Semaphore, cancel: Cancel | None) -> None:
    check(cancel)
    if cancel is None:
        slot.acquire()
        return
    while not slot.acquire(timeout=STEP_S):
        check(cancel)


def _split(url: str, tls: Tls) -> tuple[SplitResult, _Target]:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise NetworkError(f"invalid URL {url!r}", kind="protocol") from None
    if parts.scheme not in _PORTS or not host or _UNSOUND.search(url):
        raise NetworkError(
            f"invalid URL {url!r}", kind="protocol", hint="http:// and https:// are understood"
        )
    used_tls = tls if parts.scheme == "https" else DEFAULT_TLS
    return parts, _Target(parts.scheme, host, port or _PORTS[parts.scheme], used_tls)


def _origin(url: str) -> tuple[str, str | None, int | None]:
    try:
        parts = urlsplit(url)
        return parts.scheme, parts.hostname, parts.port or _PORTS.get(parts.scheme)
    except ValueError:
        return "", None, None


def _is_redirect(status: int, method: str) -> bool:
    if method in ("GET", "HEAD"):
        return status in (301, 302, 303, 307, 308)
    return status in (307, 308)
