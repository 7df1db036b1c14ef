"""HTTP/1.1 on a socket: heads and bodies, read strictly and written anew.

Two readers of one message must not disagree where it ends (request smuggling), so what RFC 9112 leaves to
tolerance is refused: two lengths, a length beside chunks, other codings, folded lines, bare line ends.
"""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

import msgspec

from anyarch.http.intercept.target import Refusal

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterable

__all__ = ["CHUNKED", "UNTIL_CLOSE", "Body", "Broken", "Head", "Wire", "chunk", "end_to_end", "length_of"]

PIECE = 1 << 16
_MOST_HEAD = 1 << 16
_MOST_LINES = 256
_MOST_CHUNK_LINE = 1 << 12
_MOST_TRAILER = 1 << 14
CHUNKED = -1
UNTIL_CLOSE = -2

_LINE = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\x20-\x7e\x80-\xff\t]*?)[ \t]*")
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(;[\x20-\x7e\x80-\xff\t]*)?")
_END, _LENIENT_END = re.compile(rb"\r\n\r\n"), re.compile(rb"\n\r?\n")
_LENGTH = re.compile(r"[0-9]{1,18}")
_HOP = frozenset(
    {
        "connection",
        "content-length",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
"""What is said of one connection alone, or written anew."""


class Broken(Exception):
    """The other side has gone, or says what cannot be read."""


class Head(msgspec.Struct, frozen=True):
    """The first line and the fields, names as they were written."""

    start: str
    fields: tuple[tuple[str, str], ...]

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.fields if key.lower() == name]

    def get(self, name: str) -> str:
        """Several as one list, as the fields mean it; empty where there is none."""
        return ", ".join(self.all(name))

    def words(self, name: str) -> list[str]:
        return [word.strip().lower() for word in self.get(name).split(",") if word.strip()]

    def encode(self) -> bytes:
        lines = [self.start, *(f"{name}: {value}" for name, value in self.fields), "", ""]
        return "\r\n".join(lines).encode("latin-1")


class Wire:
    """A connected socket and what was read ahead of it. Every wait ends after `idle_s`."""

    def __init__(self, sock: socket.socket, *, idle_s: float) -> None:
        self.sock = sock
        self._idle_s = idle_s
        self._ahead = bytearray()

    @property
    def has_ahead(self) -> bool:
        return bool(self._ahead)

    def head(self, *, whole_s: float, is_lenient: bool = False) -> Head | None:
        """The next head, None when the other side closed instead. It has to be there `whole_s` after its
        first byte. A lenient one may end its lines by a bare newline. Raises `Refusal`, `Broken`."""
        deadline, looked_at = 0.0, 0
        ending = _LENIENT_END if is_lenient else _END
        while not self._ahead:
            if not self._more(self._idle_s):
                return None
        while True:
            if self._ahead.startswith(b"\r\n"):  # left of a body before it (RFC 9112, 2.2)
                del self._ahead[:2]
                looked_at = 0
            found = ending.search(self._ahead, looked_at, _MOST_HEAD)
            if found is not None:
                raw = bytes(self._ahead[: found.end()])
                del self._ahead[: len(raw)]
                return _parsed(raw, is_lenient)
            looked_at = max(0, len(self._ahead) - 3)
            if len(self._ahead) >= _MOST_HEAD:
                raise Refusal(431, "request header fields too large")
            deadline = deadline or time.monotonic() + whole_s
            left = deadline - time.monotonic()
            if left <= 0:
                raise Refusal(408, "request timeout")
            try:
                is_open = self._more(left)
            except TimeoutError:
                raise Refusal(408, "request timeout") from None
            if not is_open:
                raise Broken("it ends within a head")

    def some(self, most: int) -> bytes:
        """Up to so many bytes; empty at the end of the connection."""
        if not self._ahead:
            self.sock.settimeout(self._idle_s)
            return self.sock.recv(min(most, PIECE))
        found = bytes(self._ahead[:most])
        del self._ahead[:most]
        return found

    def line(self, most: int) -> bytes:
        """Up to a line end, without it. Raises `Broken`."""
        while (end := self._ahead.find(b"\n")) < 0:
            if len(self._ahead) > most + 1:
                raise Broken("a line is too long")
            if not self._more(self._idle_s):
                raise Broken("it ends within a line")
        if end > most + 1:
            raise Broken("a line is too long")
        found = bytes(self._ahead[:end])
        del self._ahead[: end + 1]
        if not found.endswith(b"\r"):
            raise Broken("a line without its end")
        return found[:-1]

    def send(self, data: bytes) -> None:
        self.sock.settimeout(self._idle_s)
        self.sock.sendall(data)

    def _more(self, timeout_s: float) -> bool:
        self.sock.settimeout(timeout_s)
        data = self.sock.recv(PIECE)
        self._ahead += data
        return bool(data)


def _parsed(raw: bytes, is_lenient: bool) -> Head:
    text = raw.decode("latin-1")
    if is_lenient:
        text = text.replace("\r\n", "\n").replace("\n", "\r\n")
    start, *lines = text.removesuffix("\r\n\r\n").split("\r\n")
    if len(lines) > _MOST_LINES:
        raise Refusal(431, "request header fields too large")
    fields = []
    for line in lines:
        found = _LINE.fullmatch(line)
        if found is None:
            raise Refusal(400, "malformed header field")
        fields.append((found[1], found[2]))
    if re.search(r"[\x00-\x1f\x7f]", start):
        raise Refusal(400, "malformed first line")
    return Head(start, tuple(fields))


def end_to_end(head: Head, *, without: Iterable[str] = ()) -> list[tuple[str, str]]:
    """The fields that are for the other end."""
    left_out = _HOP | set(head.words("connection")) | set(without)
    return [(name, value) for name, value in head.fields if name.lower() not in left_out]


def length_of(head: Head, status: int, *, is_chunkable: bool = True) -> int | None:
    """Bytes of a body, `CHUNKED`, or None where nothing is said. Raises `Refusal` with that status."""
    found, codings = head.all("content-length"), head.all("transfer-encoding")
    if len(found) > 1 or (found and not _LENGTH.fullmatch(found[0])):
        raise Refusal(status, "malformed Content-Length")
    if not codings:
        return int(found[0]) if found else None
    if found:
        raise Refusal(status, "Content-Length beside Transfer-Encoding")
    if not is_chunkable or len(codings) > 1 or codings[0].lower() != "chunked":
        raise Refusal(status, "unsupported Transfer-Encoding")
    return CHUNKED


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


class Body:
    """The body of a message, piece by piece."""

    def __init__(self, wire: Wire, length: int) -> None:
        self._wire = wire
        self._length = length
        self._left = max(length, 0)
        self._is_done = length == 0

    @property
    def is_done(self) -> bool:
        """Whether its end is known to have come."""
        return self._is_done

    def read(self) -> bytes:
        """Empty at the end. Raises `Broken` when it is cut short, OSError."""
        if self.is_done:
            return b""
        if self._length == CHUNKED and not self._left:
            self._left = self._chunk()
            if not self._left:
                self._trailer()
                self._is_done = True
                return b""
        data = self._wire.some(PIECE if self._length == UNTIL_CLOSE else min(self._left, PIECE))
        if self._length == UNTIL_CLOSE:
            self._is_done = not data
            return data
        if not data:
            raise Broken("the body is cut short")
        self._left -= len(data)
        if not self._left:
            if self._length == CHUNKED:
                if self._wire.line(0):
                    raise Broken("a chunk without its end")
            else:
                self._is_done = True
        return data

    def _chunk(self) -> int:
        found = _CHUNK.fullmatch(self._wire.line(_MOST_CHUNK_LINE))
        if found is None:
            raise Broken("a malformed chunk")
        return int(found[1], 16)

    def _trailer(self) -> None:
        left = _MOST_TRAILER
        while line := self._wire.line(_MOST_CHUNK_LINE):
            left -= len(line)
            if left < 0:
                raise Broken("a trailer that is too long")
