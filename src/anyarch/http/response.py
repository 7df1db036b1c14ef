"""The answer to a request: status, header, and the body as a stream that gives its connection back."""

from __future__ import annotations

from http.client import HTTPException, IncompleteRead
from typing import TYPE_CHECKING

from anyarch.errors import NetworkError
from anyarch.http.connection import network_error

if TYPE_CHECKING:
    from collections.abc import Callable
    from http.client import HTTPMessage, HTTPResponse

__all__ = ["Response"]

_DRAIN = 1 << 16


class Response:
    """Use as a context manager, or call `close`: until then a connection is taken.

    `url` is where it came from after redirects. `headers.get(name)` and `.get_all(name)` know no case.
    Reading raises `NetworkError` and `Canceled`.
    """

    __slots__ = ("_finish", "_label", "_raw", "headers", "reason", "status", "url")

    def __init__(self, raw: HTTPResponse, url: str, label: str, finish: Callable[[bool], None]) -> None:
        self.status: int = raw.status
        self.reason: str = raw.reason
        self.headers: HTTPMessage = raw.headers
        self.url = url
        self._raw = raw
        self._label = label
        self._finish: Callable[[bool], None] | None = finish

    @property
    def remaining(self) -> int | None:
        """Bytes of the body that are still to come; None when the server did not say."""
        return self._raw.length

    def readinto(self, buffer: bytearray | memoryview) -> int:
        """Fill `buffer` as far as the body goes; 0 at its end. Raises when the body is cut short."""
        expected = self._raw.length
        try:
            count = self._raw.readinto(buffer)
        except (OSError, HTTPException, ValueError) as error:
            raise network_error(error, self._label) from None
        if count == 0 and expected and len(buffer):
            raise network_error(IncompleteRead(b""), self._label)
        return count

    def read(self, size: int) -> bytes:
        """Up to `size` bytes; empty at the end. Raises when the body is cut short."""
        buffer = bytearray(size)
        count = self.readinto(buffer)
        del buffer[count:]
        return bytes(buffer)

    def read_all(self, limit: int) -> bytes:
        """The rest of the body. Raises `NetworkError` when it is longer than `limit` bytes."""
        expected = self._raw.length
        parts = []
        left = limit + 1
        while left and (part := self.read(min(left, (expected or 1 << 16) + 1))):
            parts.append(part)
            left -= len(part)
        if not left:
            raise NetworkError(f"{self._label}: the answer is longer than {limit} bytes", kind="protocol")
        return b"".join(parts)

    def close(self) -> None:
        """Give the connection back, or close it when too much of the body is unread."""
        finish, self._finish = self._finish, None
        if finish is None:
            return
        reusable = False
        try:
            if not self._raw.will_close:
                if not self._raw.isclosed() and (self._raw.length or 0) <= _DRAIN:
                    self._raw.read(_DRAIN)
                reusable = self._raw.isclosed()
        except (OSError, HTTPException, ValueError):
            reusable = False
        finally:
            self._raw.close()
            finish(reusable)

    def __enter__(self) -> Response:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
