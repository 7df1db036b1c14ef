"""The answer to a request: status, header, and the body as a stream that gives its connection back."""

from __future__ import annotations

from http.client import HTTPException, IncompleteRead
from typing import TYPE_CHECKING

from anyarch.errors import NetworkError
from anyarch.http.problem import network_error

if TYPE_CHECKING:
    from collections.abc import Callable

    from anyarch.http.answer import Answer, Headers

__all__ = ["Response"]

_SHORT = 1 << 16


class Response:
    """Use as a context manager, or call `close`: until then a connection is taken.

    `url` is where it came from after redirects. `headers.get(name)` and `.get_all(name)` know no case.
    Reading raises `NetworkError` and `Canceled`.
    """

    __slots__ = ("_body", "_finish", "_is_broken", "_label", "_raw", "headers", "reason", "status", "url")

    def __init__(self, raw: Answer, url: str, label: str, finish: Callable[[bool], None]) -> None:
        """`finish` is called once, with whether the connection can be used again."""
        self.status: int = raw.status
        self.reason: str = raw.reason
        self.headers: Headers = raw.headers
        self.url = url
        self._raw = raw
        self._label = label
        self._is_broken = False
        self._body: bytes | None = None
        self._finish: Callable[[bool], None] | None = finish

    @property
    def remaining(self) -> int | None:
        """Bytes of the body that are still to come; None when the server did not say."""
        return self._raw.length

    def readinto(self, buffer: bytearray | memoryview) -> int:
        """Fill `buffer` as far as the body goes; 0 at its end. Raises when the body is cut short."""
        expected = self._raw.length
        self._is_broken = True
        try:
            count = self._raw.readinto(buffer)
        except (OSError, HTTPException, ValueError) as error:
            raise network_error(error, self._label) from None
        if count == 0 and expected and len(buffer):
            raise network_error(IncompleteRead(b""), self._label)
        self._is_broken = False
        return count

    def read(self, size: int) -> bytes:
        """Up to `size` bytes; empty at the end. Raises when the body is cut short."""
        buffer = bytearray(size)
        count = self.readinto(buffer)
        del buffer[count:]
        return bytes(buffer)

    def read_all(self, limit: int) -> bytes:
        """The rest of the body. Raises `NetworkError` when it is longer than `limit` bytes."""
        if self._body is not None:
            return self._body
        expected = self._raw.length
        parts = []
        left = limit + 1
        while left and (part := self.read(min(left, (expected or 1 << 16) + 1))):
            parts.append(part)
            left -= len(part)
        if not left:
            raise NetworkError(f"{self._label}: the answer is longer than {limit} bytes", kind="protocol")
        return b"".join(parts)

    def preload(self, limit: int) -> None:
        """Take the whole body now; `read_all` gives it then. Raises as `read_all`."""
        self._body = self.read_all(limit)

    def discard(self) -> None:
        """Close, but first read a body that is short, so that the connection can be used again."""
        try:
            if self._raw.length is not None and self._raw.length <= _SHORT:
                self.read(self._raw.length)
        except NetworkError:
            self._is_broken = True
        finally:
            self.close()

    def close(self) -> None:
        """Give the connection back when the whole body was read, else close it."""
        finish, self._finish = self._finish, None
        if finish is None:
            return
        is_read = self._raw.isclosed() or (self._raw.length == 0 and not self._raw.chunked)
        reusable = is_read and not self._is_broken and not self._raw.will_close
        self._raw.close()
        finish(reusable)

    def __enter__(self) -> Response:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
