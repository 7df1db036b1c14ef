"""One stream of a connection: what is waiting to be sent, and the windows of both directions."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Protocol

from anyarch.api.http2.errors import CANCEL
from anyarch.api.http2.header import encode_headers

if TYPE_CHECKING:
    from anyarch.api.http2.connection import Connection
    from anyarch.api.http2.header import Headers

__all__ = ["MAX_HELD", "Sink", "Stream"]

_UPDATE = 1 << 20
MAX_HELD = 64 << 20
"""Bytes that one connection may make us keep outside of its windows: header lists of open streams, and parts
of messages."""
HIGH_WATER = 1 << 20
"""Senders wait while more than this is pending on a stream."""


class Sink(Protocol):
    """Who takes what a peer sends on a stream. Called in order; nothing comes after `on_reset`."""

    def on_headers(self, headers: Headers) -> None: ...

    def on_data(self, data: bytes | memoryview) -> None:
        """The taker says `Stream.consumed` when it has no more use for the bytes. A view lasts for the call:
        it holds all that arrived with it."""

    def on_end(self) -> None: ...

    def on_reset(self, code: int) -> None: ...

    def on_writable(self) -> None:
        """All that was pending has been sent."""


class _Nobody:
    def on_headers(self, headers: Headers) -> None: ...

    def on_data(self, data: bytes | memoryview) -> None: ...

    def on_end(self) -> None: ...

    def on_reset(self, code: int) -> None: ...

    def on_writable(self) -> None: ...


_NOBODY = _Nobody()


class Stream:
    __slots__ = (
        "_connection",
        "_queue",
        "_queued_end",
        "_returned",
        "held",
        "id",
        "local_closed",
        "pending",
        "remote_closed",
        "send_window",
        "sink",
        "unread",
    )

    def __init__(self, connection: Connection, number: int, send_window: int) -> None:
        self._connection = connection
        self.id = number
        self.send_window = send_window
        self.sink: Sink = _NOBODY
        self.pending = 0
        """Bytes that wait for a window or the transport."""
        self.unread = 0
        self.held = 0
        self.local_closed = False
        self.remote_closed = False
        self._queue: deque[bytes | memoryview] = deque()
        self._queued_end: bytes | None = None
        self._returned = 0

    def send_headers(self, headers: Headers) -> None:
        self.send_block(encode_headers(headers))

    def send_block(self, block: bytes) -> None:
        if not self.local_closed:
            self._connection.send_block(self, block, end=False)

    def send(self, data: bytes) -> None:
        """Send `data`, at once or when it is possible."""
        if self.local_closed or self._queued_end is not None:
            return
        connection = self._connection
        size = len(data)
        if (
            not self._queue
            and not connection.paused
            and size <= connection.peer_frame
            and size <= self.send_window
            and size <= connection.send_window
        ):
            self.send_window -= size
            connection.send_window -= size
            connection.send_data(self, data, end=False)
            return
        self._queue.append(data)
        self.pending += size
        if connection.waits(size):
            connection.ready(self)

    def end(self, trailers: bytes = b"") -> None:
        """Nothing more comes from us: with a header block, or by an empty frame. After what is pending."""
        if self.local_closed or self._queued_end is not None:
            return
        if self._queue:
            self._queued_end = trailers
            return
        self._end(trailers)

    def _end(self, trailers: bytes) -> None:
        if trailers:
            self._connection.send_block(self, trailers, end=True)
        else:
            self._connection.send_data(self, b"", end=True)

    def reset(self, code: int = CANCEL) -> None:
        """Give the stream up. Its sink hears no more."""
        if self.local_closed and self.remote_closed:
            return
        self.local_closed = self.remote_closed = True
        self.discard()
        self._connection.send_reset(self, code)
        self.sink = _NOBODY

    def discard(self) -> None:
        """Forget what waits to be sent; what was not read no longer counts."""
        self.consumed(self.unread)
        self._queue.clear()
        self._connection.waits(-self.pending)
        self.pending = 0
        self._queued_end = None

    def hold(self, size: int) -> bool:
        """Count `size` bytes more (or fewer) that the taker keeps outside of the windows; whether that is not
        too much for the connection."""
        self.held += size
        self._connection.held += size
        return self._connection.held <= MAX_HELD

    def consumed(self, size: int) -> None:
        """The taker is done with `size` bytes: the peer may send as much again."""
        size = min(size, self.unread)
        if not size:
            return
        self.unread -= size
        self._connection.consumed(size)
        self._returned += size
        if self._returned >= _UPDATE:
            self._connection.send_window_update(self, self._returned)
            self._returned = 0

    def send_pending(self, limit: int, frame: int) -> bool:
        """Send up to `limit` bytes of what waits, in frames of at most `frame`. Whether something is left
        that the window of the stream allows."""
        connection, queue = self._connection, self._queue
        while queue and not connection.paused:
            room = min(limit, self.send_window, frame)
            if room <= 0 and queue[0]:
                return self.send_window > 0
            data = queue[0]
            if len(data) <= room:
                queue.popleft()
            else:
                view = memoryview(data)
                queue[0], data = view[room:], view[:room]
            size = len(data)
            limit -= size
            self.send_window -= size
            connection.send_window -= size
            self.pending -= size
            connection.waits(-size)
            connection.send_data(self, data, end=False)
        if queue:
            return True
        if self._queued_end is not None:
            trailers, self._queued_end = self._queued_end, None
            self._end(trailers)
        self.sink.on_writable()
        return False
