"""FakeRegistry: an OCI registry inside the test's process, with counters and faults.

It speaks the whole of what the client uses (distribution-spec 1.1): manifests, blobs with ranges, uploads in
one or in pieces, mounts, tags, referrers, deletion, basic and token authorization, redirects of blobs to a
storage host. Everything is held in memory and can be looked at: `log`, `count`, `blobs`, `manifests`.
`fault` makes requests go wrong.

    with FakeRegistry() as registry:
        registry.add_image("library/tiny", "latest", [layer])
        registry.fault("GET", r"/blobs/", truncate=1000)
        client.fetch(Reference.parse(f"{registry.address}/library/tiny"), ...)
        assert registry.count("GET", "/blobs/") == 2
"""

from __future__ import annotations

import json
import re
import socket
import ssl
import threading
import time
from http.server import ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import msgspec

from anyarch.spec import media
from anyarch.spec.digest import Digest
from anyarch.spec.oci import Blob, Descriptor, ImageConfig, Index, Manifest, RootFS, encode
from anyarch.testing.registry_handler import Handler

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = ["FakeRegistry", "Fault", "Request"]


class Request(msgspec.Struct):
    """One request as it was answered. `headers` have lower-case names; `sent` and `received` count body
    bytes."""

    method: str
    path: str
    headers: dict[str, str]
    status: int = 0
    received: int = 0
    sent: int = 0


class Fault(msgspec.Struct):
    """What goes wrong with the requests that fit. See `FakeRegistry.fault`."""

    method: str
    pattern: re.Pattern[str]
    skip: int
    times: int
    status: int = 0
    headers: dict[str, str] = {}
    body: bytes = b""
    truncate: int | None = None
    corrupt: bool = False
    drop: bool = False
    drop_body_after: int | None = None
    delay_s: float = 0.0
    digest_header: str | None = None
    bytes_per_s: float = 0.0
    expire_tokens: bool = False
    lose_answer: bool = False


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128
    registry: FakeRegistry

    def __init__(self, registry: FakeRegistry, port: int) -> None:
        self.registry = registry
        self.sockets: set[socket.socket] = set()
        super().__init__(("127.0.0.1", port), Handler)

    def get_request(self) -> tuple[socket.socket, Any]:
        request, address = super().get_request()
        if self.registry.tls_context is not None:
            request = self.registry.tls_context.wrap_socket(
                request, server_side=True, do_handshake_on_connect=False
            )
        with self.registry.lock:
            self.sockets.add(request)
            self.registry.connections += 1
        return request, address

    def shutdown_request(self, request: Any) -> None:
        with self.registry.lock:
            self.sockets.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away in the middle is what many tests are about; nothing is printed."""


class FakeRegistry:
    """Use as a context manager. `address` is `127.0.0.1:PORT`.

    `auth` is none, basic or token; `users` maps names to passwords, `identity_tokens` maps OAuth2 refresh
    tokens to names; with `anonymous_pull` tokens for reading need no user. Switches for what registries
    differ in are attributes and may be changed at any time: `supports_ranges`, `supports_mounts`,
    `supports_whole_put`, `supports_head`, `supports_referrers`, `supports_delete`,
    `max_body` (413 above), `page_size` (tags), `redirect_blobs` (a host name that leads
    here, `localhost`), `token_life_s`.
    """

    def __init__(
        self,
        *,
        auth: str = "none",
        users: Mapping[str, str] | None = None,
        identity_tokens: Mapping[str, str] | None = None,
        anonymous_pull: bool = False,
        tls: tuple[str, str] | None = None,
        port: int = 0,
    ) -> None:
        """`tls` is a (certificate, key) pair of files."""
        self.auth = auth
        self.users = dict(users or {})
        self.identity_tokens = dict(identity_tokens or {})
        self.anonymous_pull = anonymous_pull
        self.supports_ranges = True
        self.supports_mounts = True
        self.supports_whole_put = True
        self.supports_head = True
        self.supports_referrers = True
        self.supports_delete = True
        self.sends_digest_header = True
        self.max_body: int | None = None
        self.page_size = 1000
        self.redirect_blobs = ""
        self.token_life_s = 300.0
        self.lock = threading.RLock()
        self.log: list[Request] = []
        self.connections = 0
        self.blobs: dict[tuple[str, str], bytes] = {}
        self.manifests: dict[tuple[str, str], Blob] = {}
        self.tags: dict[tuple[str, str], Digest] = {}
        self.uploads: dict[str, bytearray] = {}
        self.tokens: dict[str, tuple[frozenset[str], float]] = {}
        self.faults: list[Fault] = []
        self.draw_fault: Callable[[str, str], Fault | None] | None = None
        """Asked for each request (method, path) that no `fault` fits: a test's own weather."""
        self.tls_context: ssl.SSLContext | None = None
        if tls is not None:
            self.tls_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.tls_context.load_cert_chain(*tls)
        self._port = port
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> FakeRegistry:
        self._server = _Server(self, self._port)
        self._port = self._server.server_address[1]
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, name="fake-registry"
        )
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        server, thread = self._server, self._thread
        assert server is not None
        assert thread is not None
        server.shutdown()
        server.server_close()
        thread.join()
        with self.lock:
            open_sockets = list(server.sockets)
        for connection in open_sockets:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue  # closed by its own thread meanwhile
        self._server = None

    @property
    def port(self) -> int:
        return self._port

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._port}"

    @property
    def url(self) -> str:
        return f"{'https' if self.tls_context else 'http'}://{self.address}"

    # what a test puts in and looks at
    # -------------------------------------------------------------------------

    def add_blob(self, repository: str, raw: bytes) -> Digest:
        digest = Digest.of(raw)
        with self.lock:
            self.blobs[repository, digest] = raw
        return digest

    def add_manifest(self, repository: str, blob: Blob, *, tag: str | None = None) -> Digest:
        with self.lock:
            self.manifests[repository, blob.digest] = blob
            if tag is not None:
                self.tags[repository, tag] = blob.digest
        return blob.digest

    def add_image(
        self,
        repository: str,
        tag: str | None = None,
        layers: Sequence[bytes] = (),
        *,
        os: str = "linux",
        architecture: str = "amd64",
        variant: str = "",
        media_type: str = media.OCI_LAYER_TAR,
        docker: bool = False,
    ) -> Blob:
        """An image of ready layer bytes. Returns its manifest."""
        config = encode(
            ImageConfig(
                architecture=architecture,
                os=os,
                variant=variant,
                rootfs=RootFS(diff_ids=tuple(Digest.of(layer) for layer in layers)),
                history=(),
            )
        )
        config_type = media.DOCKER_CONFIG if docker else media.OCI_CONFIG
        manifest_type = media.DOCKER_MANIFEST if docker else media.OCI_MANIFEST
        manifest = Manifest(
            schema_version=2,
            media_type=manifest_type,
            config=Descriptor(config_type, self.add_blob(repository, config), len(config)),
            layers=tuple(
                Descriptor(
                    media.to_docker(media_type) if docker else media_type,
                    self.add_blob(repository, layer),
                    len(layer),
                )
                for layer in layers
            ),
        )
        blob = Blob.of(manifest_type, encode(manifest))
        self.add_manifest(repository, blob, tag=tag)
        return blob

    def add_index(
        self, repository: str, tag: str | None, entries: Sequence[Descriptor], *, docker: bool = False
    ) -> Blob:
        """An index of ready descriptors. Returns it."""
        kind = media.DOCKER_INDEX if docker else media.OCI_INDEX
        blob = Blob.of(kind, encode(Index(schema_version=2, media_type=kind, manifests=tuple(entries))))
        self.add_manifest(repository, blob, tag=tag)
        return blob

    def count(self, method: str = "", pattern: str = "", *, status: int = 0) -> int:
        """How many requests so far had this method, a path in which `pattern` is found, and this status."""
        return len(self.requests(method, pattern, status=status))

    def requests(self, method: str = "", pattern: str = "", *, status: int = 0) -> list[Request]:
        with self.lock:
            return [
                r
                for r in self.log
                if (not method or r.method == method)
                and re.search(pattern, r.path)
                and (not status or r.status == status)
            ]

    def clear_log(self) -> None:
        with self.lock:
            self.log.clear()

    def revoke_tokens(self) -> None:
        """All tokens given out are worth nothing from now on."""
        with self.lock:
            self.tokens.clear()

    def fault(
        self,
        method: str,
        pattern: str,
        *,
        nth: int = 1,
        times: int = 1,
        status: int = 0,
        headers: Mapping[str, str] | None = None,
        body: bytes | Mapping[str, Any] = b"",
        truncate: int | None = None,
        corrupt: bool = False,
        drop: bool = False,
        drop_body_after: int | None = None,
        delay_s: float = 0.0,
        digest_header: str | None = None,
        bytes_per_s: float = 0.0,
        expire_tokens: bool = False,
        lose_answer: bool = False,
    ) -> Fault:
        """Let requests of `method` (empty: any) whose path fits `pattern` go wrong: from the `nth` on,
        `times` times.

        `status`: this answer, with `headers` and `body` (a mapping becomes JSON), instead of the right one.
        `truncate`: the answer's body breaks off after so many bytes. `corrupt`: its first byte is wrong.
        `drop`: the connection is closed without an answer. `drop_body_after`: closed when so many bytes of
        the request's body came (they are kept by an upload). `delay_s`: first wait. `digest_header`: this
        Docker-Content-Digest. `bytes_per_s`: bodies come and go that slowly. `expire_tokens`: all tokens
        given out are worth nothing from this request on. `lose_answer`: the request is acted on, and the
        connection closed without an answer.
        """
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        fault = Fault(
            method,
            re.compile(pattern),
            nth - 1,
            times,
            status,
            dict(headers or {}),
            raw,
            truncate,
            corrupt,
            drop,
            drop_body_after,
            delay_s,
            digest_header,
            bytes_per_s,
            expire_tokens,
            lose_answer,
        )
        with self.lock:
            self.faults.append(fault)
        return fault

    # for the handler
    # ------------------------------------------------------------------------------------------

    def take_fault(self, method: str, path: str) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if fault.times <= 0 or fault.method not in ("", method) or not fault.pattern.search(path):
                    continue
                if fault.skip > 0:
                    fault.skip -= 1
                    continue
                fault.times -= 1
                return fault
            return self.draw_fault(method, path) if self.draw_fault is not None else None

    def issue_token(self, scopes: frozenset[str]) -> str:
        with self.lock:
            token = f"token-{len(self.tokens)}-{time.monotonic_ns()}"
            self.tokens[token] = (scopes, time.monotonic() + self.token_life_s)
        return token
