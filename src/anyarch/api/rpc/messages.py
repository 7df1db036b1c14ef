"""The messages of one direction of a call: put together from data, queued for a reader or handed to a
callback.

Sending and receiving are the same for client and server; `ClientCall` and `ServerCall` add how a call begins
and ends.
"""

from __future__ import annotations

import asyncio
import zlib
from collections import deque
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar

from anyarch.api.http2.stream import HIGH_WATER
from anyarch.api.rpc.fieldcount import has_more_fields
from anyarch.api.rpc.status import Code, RpcError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from anyarch.api.http2.stream import Stream

__all__ = ["MAX_MESSAGE", "Message", "MessageStream"]

MAX_MESSAGE = 16 << 20
"""BuildKit's limit on its control connection, in both directions."""
MAX_FIELDS = 2_000_000
"""In one message with all that are inside it. A graph of 40,000 steps has as many."""
_COUNTED = 1 << 20  # bytes; what is smaller cannot have enough of them to matter


class Message(Protocol):
    """A protobuf message, as far as calls know it."""

    DESCRIPTOR: Any

    def SerializeToString(self) -> bytes: ...

    @classmethod
    def FromString(cls, s: bytes, /) -> Self: ...


M = TypeVar("M", bound=Message)


class MessageStream:
    """What both ends of a call have in common. One task may read and any number may send."""

    def __init__(self, max_message: int = MAX_MESSAGE) -> None:
        self.stream: Stream
        self.max_message = max_message
        self.encoding = ""
        self._partial = bytearray()
        self._need = 5
        self._queue: deque[tuple[bytes, bool]] = deque()
        self._held = 0
        self._callback: Callable[[bytes | memoryview], None] | None = None
        self._ended = False
        self._error: RpcError | None = None
        self._reader: asyncio.Future[None] | None = None
        self._senders: list[asyncio.Future[None]] = []
        self.on_end_callback: Callable[[RpcError | None], None] | None = None
        """Called once when no more messages come: with None after a good end."""
        self.on_drained: Callable[[], None] | None = None
        """Called whenever all that was pending has been sent."""

    # receiving -------------------------------------------------------------------------------------

    def on_data(self, data: bytes | memoryview) -> None:
        self._held += len(data)
        if self._partial:
            partial = self._partial
            partial += data
            if len(partial) < self._need:
                self._hold(len(data))
                return
            self.stream.hold(len(data) - len(partial))
            self._partial = bytearray()
            data = memoryview(partial)
        position, end = 0, len(data)
        while end - position >= 5:
            start = position + 5
            size = int.from_bytes(data[position + 1 : start], "big")
            if size > self.max_message:
                self.fail(
                    RpcError(
                        Code.RESOURCE_EXHAUSTED,
                        f"received message larger than max ({size} vs. {self.max_message})",
                    )
                )
                return
            stop = start + size
            if stop > end:
                self._need = 5 + size
                break
            # What waits stays as it came: it may be small only as long as it is compressed.
            message = data[start:stop]
            is_compressed = data[position] != 0
            position = stop
            if self._callback is None:
                self._queue.append((bytes(message), is_compressed))
            elif not self._hand_over(self._callback, message, is_compressed):
                return
        else:
            self._need = 5
        if self._queue:
            self._wake()
        if position < end:
            self._partial += data[position:] if position else data
            self._hold(end - position)
        else:
            self._release()

    def _hold(self, size: int) -> None:
        """Keep `size` bytes more of a message. The peer gets its window back, as a message may be larger."""
        if self.stream.hold(size):
            self._release()
        else:
            self.fail(RpcError(Code.RESOURCE_EXHAUSTED, "too many large messages at the same time"))

    def _hand_over(
        self, callback: Callable[[bytes | memoryview], None], message: bytes | memoryview, is_compressed: bool
    ) -> bool:
        """Whether the call goes on."""
        if is_compressed:
            try:
                message = self._inflate(message)
            except RpcError as error:
                self.fail(error)
                return False
        callback(message)
        return self._error is None

    def _inflate(self, message: bytes | memoryview) -> bytes:
        if self.encoding not in ("gzip", "deflate"):
            raise RpcError(
                Code.UNIMPLEMENTED, f"message is compressed by {self.encoding or 'nothing that was named'}"
            )
        inflater = zlib.decompressobj(47)
        try:
            data = inflater.decompress(message, self.max_message + 1)
        except zlib.error as error:
            raise RpcError(Code.INTERNAL, f"message cannot be decompressed: {error}") from None
        if len(data) > self.max_message:
            raise RpcError(Code.RESOURCE_EXHAUSTED, f"received message larger than max ({self.max_message})")
        return data

    def _release(self) -> None:
        """Give the peer its window back where nothing waits for the reader."""
        if not self._queue and self._held:
            held, self._held = self._held, 0
            self.stream.consumed(held)

    def _wake(self) -> None:
        if self._reader is not None:
            if not self._reader.done():
                self._reader.set_result(None)
            self._reader = None

    async def recv(self) -> bytes | None:
        """The next message, None when the peer sends no more. Raises `RpcError` where the call failed."""
        while not self._queue:
            if self._error is not None:
                raise self._error
            if self._ended:
                return None
            self._reader = asyncio.get_running_loop().create_future()
            await self._reader
        message, is_compressed = self._queue.popleft()
        if not self._queue:
            self._release()
        else:
            size = min(self._held, len(message) + 5)
            self._held -= size
            self.stream.consumed(size)
        if is_compressed:
            try:
                return self._inflate(message)
            except RpcError as error:
                self.fail(error)
                raise
        return message

    async def receive(self, kind: type[M]) -> M | None:
        """The next message, parsed. Raises `RpcError`."""
        raw = await self.recv()
        return None if raw is None else await parse(kind, raw)

    async def messages(self, kind: type[M]) -> AsyncIterator[M]:
        """All messages up to the peer's end. Raises `RpcError`."""
        while (raw := await self.recv()) is not None:
            yield await parse(kind, raw)

    def on_message(self, callback: Callable[[bytes | memoryview], None]) -> None:
        """From now on messages go to `callback`, on the loop and in order, instead of to `recv`. A view lasts
        for the call."""
        self._callback = callback
        while self._queue and self._error is None:
            if not self._hand_over(callback, *self._queue.popleft()):
                return
        self._release()

    # sending ---------------------------------------------------------------------------------------

    def send_nowait(self, message: bytes) -> None:
        """Send without a look at what is already waiting; see `pending`."""
        self.stream.send(b"\0" + len(message).to_bytes(4, "big") + message)

    @property
    def pending(self) -> int:
        """Bytes that wait to be sent."""
        return self.stream.pending

    async def send(self, message: Message | bytes) -> None:
        """Send a message; waits while the peer is slow. Raises `RpcError` where the call is over."""
        raw = message if isinstance(message, bytes) else message.SerializeToString()
        if self._error is not None:
            raise self._error
        self.send_nowait(raw)
        if self.stream.pending > HIGH_WATER:
            await self.drained()

    async def drained(self) -> None:
        """Until nothing is pending. Raises `RpcError` where the call is over."""
        while self.stream.pending:
            if self._error is not None:
                raise self._error
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._senders.append(future)
            await future
        if self._error is not None:
            raise self._error

    def on_writable(self) -> None:
        senders, self._senders = self._senders, []
        for future in senders:
            if not future.done():
                future.set_result(None)
        if self.on_drained is not None:
            self.on_drained()

    # the end ---------------------------------------------------------------------------------------

    def end(self) -> None:
        """We send no more. A server's call goes on until its handler returns."""
        raise NotImplementedError

    def fail(self, error: RpcError) -> None:
        """End both directions by `error`."""
        raise NotImplementedError

    def finish(self, error: RpcError | None) -> None:
        """No more messages come."""
        if self._ended:
            return
        self._ended = True
        if error is None and self._partial:
            error = RpcError(Code.INTERNAL, "the last message is cut short")
        self._error = self._error or error
        self._partial.clear()
        self._wake()
        if error is not None:
            self.on_writable()
        if self.on_end_callback is not None:
            callback, self.on_end_callback = self.on_end_callback, None
            callback(self._error)


async def parse(kind: type[M], raw: bytes) -> M:
    """Raises `RpcError` for bytes that are no such message, and for one of too many parts."""
    from google.protobuf.message import DecodeError

    # In a thread: it may take a second, in which others are to be answered.
    if len(raw) > _COUNTED and await asyncio.to_thread(has_more_fields, raw, kind.DESCRIPTOR, MAX_FIELDS):
        raise RpcError(Code.RESOURCE_EXHAUSTED, f"{kind.__name__} has more than {MAX_FIELDS} fields")

    try:
        return kind.FromString(raw)
    except DecodeError as error:
        raise RpcError(Code.INTERNAL, f"malformed {kind.__name__}: {error}") from None
