"""Small servers for the tests of the HTTP client: scripted answers, a proxy, certificates."""

from __future__ import annotations

import select
import shutil
import socket
import subprocess
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class Loopback:
    """A server that gives each connection to `serve` in a thread of its own. A context manager."""

    def __init__(self, serve: Callable[[socket.socket], None]) -> None:
        self._serve = serve
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads: list[threading.Thread] = []
        self._sockets: list[socket.socket] = []
        self._acceptor = threading.Thread(target=self._accept)
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    @property
    def connections(self) -> int:
        return len(self._sockets)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._sockets.append(connection)
            thread = threading.Thread(target=self._run, args=(connection,))
            self._threads.append(thread)
            thread.start()

    def _run(self, connection: socket.socket) -> None:
        with connection:
            try:
                self._serve(connection)
            except OSError:
                return

    def __enter__(self) -> Loopback:
        self._acceptor.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._acceptor.join()
        for connection in self._sockets:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue
        for thread in self._threads:
            thread.join()


def read_header(connection: socket.socket) -> bytes:
    """A request up to the empty line."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(4096)
        if not piece:
            return data
        data += piece
    return data


def saying(*answers: bytes) -> Callable[[socket.socket], None]:
    """A server that gives one of `answers` to each request of a connection, then closes it."""

    def serve(connection: socket.socket) -> None:
        for answer in answers:
            if not read_header(connection):
                return
            connection.sendall(answer)

    return serve


def proxy(seen: list[bytes]) -> Callable[[socket.socket], None]:
    """An HTTP proxy; `seen` gets the header of every request to it."""

    def serve(connection: socket.socket) -> None:
        header = read_header(connection)
        seen.append(header)
        method, target, _ = header.split(b"\r\n", 1)[0].split(b" ")
        if method == b"CONNECT":
            host, _, port = target.decode().rpartition(":")
            with socket.create_connection((host, int(port))) as upstream:
                connection.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                _relay(connection, upstream)
            return
        rest = target.removeprefix(b"http://")
        netloc, _, path = rest.partition(b"/")
        host, _, port = netloc.decode().partition(":")
        with socket.create_connection((host, int(port or 80))) as upstream:
            upstream.sendall(header.replace(target, b"/" + path, 1))
            _relay(connection, upstream)

    return serve


def _relay(one: socket.socket, other: socket.socket) -> None:
    while True:
        ready, _, _ = select.select([one, other], [], [], 5)
        if not ready:
            return
        for source in ready:
            data = source.recv(65536)
            if not data:
                return
            (other if source is one else one).sendall(data)


def make_certificate(directory: Path) -> tuple[str, str]:
    """A self-signed certificate for 127.0.0.1 and localhost: (certificate file, key file)."""
    assert shutil.which("openssl"), "the openssl program is needed"
    certificate, key = directory / "server.crt", directory / "server.key"
    subprocess.run(
        [
            *(
                "openssl",
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:prime256v1",
                "-nodes",
            ),
            *(
                "-days",
                "30",
                "-subj",
                "/CN=localhost",
                "-addext",
                "subjectAltName=DNS:localhost,IP:127.0.0.1",
            ),
            *("-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    return str(certificate), str(key)
