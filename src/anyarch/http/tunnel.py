"""TLS inside TLS: a server's, through a proxy that is itself reached by TLS.

The ssl module's sockets need a descriptor of their own, so this one works on two buffers of memory, of which
the bytes go through the connection to the proxy.
"""

from __future__ import annotations

import io
import ssl
from typing import Any

__all__ = ["TunnelledTls"]

_PIECE = 1 << 16


class TunnelledTls:
    """The parts of a socket that the HTTP client uses. Raises `OSError` as a TLS socket does."""

    def __init__(self, outer: ssl.SSLSocket, context: ssl.SSLContext, host: str) -> None:
        """Shakes hands. `outer` is closed with this one."""
        self._outer = outer
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._inner = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        self._buffer = bytearray(_PIECE)
        while True:
            try:
                self._inner.do_handshake()
                break
            except ssl.SSLWantReadError:
                self._exchange()
        self._flush()

    def fileno(self) -> int:
        return self._outer.fileno()

    def close(self) -> None:
        self._outer.close()

    def sendall(self, data: bytes | memoryview, /) -> None:
        view = memoryview(data).cast("B")
        while view:
            try:
                view = view[self._inner.write(view[: 1 << 20]) :]
                self._flush()
            except ssl.SSLWantReadError:
                self._exchange()

    def recv_into(self, buffer: Any, /) -> int:
        view = memoryview(buffer).cast("B")
        if not view:
            return 0
        while True:
            try:
                return self._inner.read(len(view), view)  # type: ignore[return-value]  # a count, with a buffer
            except ssl.SSLWantReadError:
                self._exchange()
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                return 0

    def makefile(self, mode: str) -> io.BufferedReader:
        """A buffered reader ("rb"); closing it leaves the socket open."""
        return io.BufferedReader(_Reader(self), _PIECE)

    def _flush(self) -> None:
        if data := self._outgoing.read():
            self._outer.sendall(data)

    def _exchange(self) -> None:
        self._flush()
        count = self._outer.recv_into(self._buffer)
        if count:
            self._incoming.write(memoryview(self._buffer)[:count])
        else:
            self._incoming.write_eof()


class _Reader(io.RawIOBase):
    def __init__(self, sock: TunnelledTls) -> None:
        super().__init__()
        self._sock = sock

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        return self._sock.recv_into(buffer)
