"""The head of an answer, read without the mail parser that http.client hands it to.

That parser takes more time than everything else about a small exchange, and a copy of an image is a thousand
small exchanges. Bodies, chunked or not, stay http.client's.
"""

from __future__ import annotations

import http.client
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import socket
    from typing import BinaryIO

    from anyarch.http.tunnel import TunnelledTls

__all__ = ["Answer", "Headers"]

_MAX_LINE = 65536
_MAX_LINES = 100


class Headers:
    """Header fields; names know no case."""

    __slots__ = ("_fields",)

    def __init__(self) -> None:
        self._fields: dict[str, list[str]] = {}

    def add(self, name: str, value: str) -> None:
        self._fields.setdefault(name.lower(), []).append(value)

    def __getitem__(self, name: str) -> str:
        return self._fields[name.lower()][0]

    def get(self, name: str, default: str | None = None) -> str | None:
        """The first field of that name."""
        found = self._fields.get(name.lower())
        return found[0] if found else default

    def get_all(self, name: str, default: list[str] | None = None) -> list[str] | None:
        found = self._fields.get(name.lower())
        return list(found) if found else default


class Answer(http.client.HTTPResponse):
    """An `HTTPResponse` with `Headers`. `begin` raises as the standard one does."""

    headers: Headers  # type: ignore[assignment]  # what the base class asks of them is `get`

    def __init__(self, sock: socket.socket | TunnelledTls, *, method: str) -> None:
        super().__init__(sock, method=method)  # type: ignore[arg-type]  # `makefile` is all it asks of a socket
        self._is_head = method == "HEAD"

    def begin(self) -> None:
        while True:
            self.version, self.status, self.reason = _status(self.fp)
            headers = _fields(self.fp)
            if self.status >= 200 or self.status == 101:
                break
        self.code = self.status
        self.headers = headers
        self.chunked = (headers.get("transfer-encoding") or "").strip().lower() == "chunked"
        self.chunk_left = None
        connection = (headers.get("connection") or "").lower()
        self.will_close = "close" in connection or (self.version < 11 and "keep-alive" not in connection)
        self.length = None
        length = (headers.get("content-length") or "").strip()
        if not self.chunked and length.isascii() and length.isdigit():
            self.length = int(length)
        if self.status in (101, 204, 304) or self._is_head:
            self.length = 0
        if not self.chunked and self.length is None:
            self.will_close = True


def _status(stream: BinaryIO) -> tuple[int, int, str]:
    """Version (10 or 11), status and reason."""
    line = _line(stream, "status line")
    if not line:
        raise http.client.RemoteDisconnected("connection closed before an answer came")
    version, _, rest = line.strip().partition(" ")
    number, _, reason = rest.strip().partition(" ")
    if not version.startswith("HTTP/1.") or len(number) != 3 or not number.isdigit() or number < "100":
        raise http.client.BadStatusLine(line)
    return 10 if version == "HTTP/1.0" else 11, int(number), reason.strip()


def _fields(stream: BinaryIO) -> Headers:
    headers = Headers()
    name = value = ""
    for _ in range(_MAX_LINES + 1):
        line = _line(stream, "header line")
        if line[:1] in (" ", "\t") and name:  # the folded lines of RFC 7230
            value += " " + line.strip()
            continue
        if name:
            headers.add(name, value)
        if line in ("\r\n", "\n"):
            return headers
        if not line:
            raise http.client.IncompleteRead(b"")
        name, colon, value = line.partition(":")
        value = value.strip()
        if not colon or not name or name != name.strip():
            raise http.client.HTTPException("malformed header line")
    raise http.client.HTTPException(f"more than {_MAX_LINES} header lines")


def _line(stream: BinaryIO, what: str) -> str:
    raw = stream.readline(_MAX_LINE + 1)
    if len(raw) > _MAX_LINE:
        raise http.client.LineTooLong(what)
    return raw.decode("latin-1")
