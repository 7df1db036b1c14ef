"""One HTTP/2 connection, either role, without I/O.

Bytes that arrive go to `feed`; bytes to send come out of the `write` callback, gathered until the end of
`feed` or until the owner's event loop turns (`schedule`). Streams report to a `Sink`. Nothing here waits or
raises for what a peer does: a peer that breaks the protocol gets GOAWAY, all streams get `on_reset`, and
`closed` is set.

Memory is bounded: a stream that is not read holds at most its window (4 MiB), a connection 64 MiB, and as
much again of header lists and of parts of messages; what is waiting to be sent is bounded by the senders, who
look at `Stream.pending`. A peer that resets what it opens or makes us reset it, asks for more and more on
streams that it does not read, changes their windows without end, or sends frames that have to be answered and
does not read the answers, is disconnected.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Protocol

from anyarch.api.http2.errors import (
    CANCEL,
    ENHANCE_YOUR_CALM,
    FLOW_CONTROL_ERROR,
    FRAME_SIZE_ERROR,
    INTERNAL_ERROR,
    NO_ERROR,
    PROTOCOL_ERROR,
    REFUSED_STREAM,
    STREAM_CLOSED,
    ProtocolError,
)
from anyarch.api.http2.header import MAX_BLOCK, BlockDecoder, encode_headers
from anyarch.api.http2.patience import Patience
from anyarch.api.http2.stream import MAX_HELD, Stream

if TYPE_CHECKING:
    from collections.abc import Callable

    from anyarch.api.http2.header import Headers
    from anyarch.api.http2.stream import Sink

__all__ = ["PREFACE", "Connection", "Owner"]

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = (
    range(10)
)
END_STREAM = ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
HAS_PRIORITY = 0x20

HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT, INITIAL_WINDOW, MAX_FRAME, MAX_HEADER_LIST = range(1, 7)

STREAM_WINDOW = 4 << 20
CONNECTION_WINDOW = 64 << 20
FRAME_SIZE = 1 << 20
"""The largest frame that we take; grpc-go sends 16 KiB whatever we say, Go's HTTP/2 server follows it."""
MAX_WINDOW = (1 << 31) - 1
_SMALL_PART = 1 << 10  # of a header block: who continues one fills its frames
_FLUSH = 1 << 16
_TURN = 1 << 18
_SETTING = struct.Struct(">HI")
_U32 = struct.Struct(">I")


class Owner(Protocol):
    """Who holds a connection."""

    def write(self, data: bytes) -> None:
        """Send `data`. Never raises."""

    def schedule(self, flush: Callable[[], None]) -> None:
        """Call `flush` soon, once."""

    def opened(self, stream: Stream, headers: Headers) -> Sink | None:
        """The peer began a stream: who takes it (None: it is refused)."""

    def lost(self, code: int, message: str) -> None:
        """The connection is over, for what reason. Every stream has had `on_reset`."""


class Connection:
    def __init__(self, owner: Owner, *, client: bool, max_streams: int = 1000) -> None:
        self._owner = owner
        self._client = client
        self._max_streams = max_streams
        self._decoder = BlockDecoder()
        self._in: list[bytes] = []
        self._in_size = 0
        self._in_need = 0
        self._greeted = client
        self._settled = False
        self._out: list[bytes] = []
        self._out_size = 0
        self._flushing = False
        self._feeding = False
        self._next_id = 1 if client else 2
        self._last_peer_id = 0
        self._block: tuple[int, bool, bytearray] | None = None
        self._ready: dict[Stream, None] = {}
        self._patience = Patience()
        self._unused = 0
        self._received_limit = CONNECTION_WINDOW
        self.held = 0
        self.streams: dict[int, Stream] = {}
        self.send_window = 65535
        self.peer_window = 65535
        self.peer_frame = 16384
        self.peer_max_streams = MAX_WINDOW
        self.paused = False
        self.closed = False
        self.going_away = False

    @property
    def has_begun(self) -> bool:
        """Whether the peer has said what it has to say first."""
        return self._settled

    # life ------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Send our side of the greeting."""
        if self._client:
            self._put(PREFACE)
        settings = [(INITIAL_WINDOW, STREAM_WINDOW), (MAX_FRAME, FRAME_SIZE)]
        settings += [(ENABLE_PUSH, 0)] if self._client else [(MAX_CONCURRENT, self._max_streams)]
        self._frame(SETTINGS, 0, 0, b"".join(_SETTING.pack(*item) for item in settings))
        self._frame(WINDOW_UPDATE, 0, 0, _U32.pack(CONNECTION_WINDOW - 65535))

    def go_away(self) -> None:
        """Take no new streams; those that are open go on."""
        if not self.closed and not self.going_away:
            self.going_away = True
            self._frame(GOAWAY, 0, 0, _U32.pack(self._last_peer_id) + _U32.pack(NO_ERROR))
            self.flush()

    def close(self, code: int = NO_ERROR, message: str = "") -> None:
        """End at once: all streams are reset. May be called again."""
        if self.closed:
            return
        self._frame(GOAWAY, 0, 0, _U32.pack(self._last_peer_id) + _U32.pack(code) + message.encode()[:200])
        self.flush()
        self.disconnected(code, message)

    def disconnected(self, code: int = CANCEL, message: str = "the connection was closed") -> None:
        """The bytes have ended."""
        if self.closed:
            return
        self.closed = True
        for stream in list(self.streams.values()):
            self._drop(stream, code)
        self._ready.clear()
        self._owner.lost(code, message)

    # input -----------------------------------------------------------------------------------------

    def feed(self, data: bytes | memoryview) -> None:
        """Take what arrived. Of a view nothing is used any more after the return."""
        if self.closed:
            return
        if self._in:
            self._in.append(bytes(data))
            self._in_size += len(data)
            # A frame that comes byte by byte is put together once.
            if self._in_size < self._in_need:
                return
            data = b"".join(self._in)
            self._in.clear()
        self._feeding = True
        try:
            self._consume(data)
        except ProtocolError as error:
            self._in.clear()
            self.close(error.code, error.message)
        finally:
            self._feeding = False
        self.flush()

    def _consume(self, data: bytes | memoryview) -> None:
        position, end = 0, len(data)
        if not self._greeted:
            data = bytes(data)
            if end < len(PREFACE):
                if not PREFACE.startswith(data):
                    raise ProtocolError(PROTOCOL_ERROR, "this is not HTTP/2")
                self._keep(data, len(PREFACE))
                return
            if not data.startswith(PREFACE):
                raise ProtocolError(PROTOCOL_ERROR, "this is not HTTP/2")
            self._greeted = True
            position = len(PREFACE)
        streams = self.streams
        view = memoryview(data)
        need = 9
        while end - position >= 9:
            size = data[position] << 16 | data[position + 1] << 8 | data[position + 2]
            if size > FRAME_SIZE:
                raise ProtocolError(FRAME_SIZE_ERROR, f"a frame of {size} bytes")
            start = position + 9
            stop = start + size
            if stop > end:
                need = 9 + size
                break
            kind, flags = data[position + 3], data[position + 4]
            number = _U32.unpack_from(data, position + 5)[0] & MAX_WINDOW
            position = stop
            # The common frame first: data of an open stream, without padding.
            if kind == DATA and not flags & PADDED and self._block is None and self._settled:
                stream = streams.get(number)
                if stream is not None and not stream.remote_closed:
                    self._data(stream, view[start:stop], size, flags)
                    if self.closed:
                        return
                    continue
            self._dispatch(kind, flags, number, bytes(view[start:stop]))
            if self.closed:
                return
        if position < end:
            self._keep(bytes(view[position:]) if position else bytes(data), need)

    def _keep(self, data: bytes, need: int) -> None:
        """The beginning of a frame of `need` bytes."""
        if data:
            self._in.append(data)
            self._in_size, self._in_need = len(data), need

    def _dispatch(self, kind: int, flags: int, number: int, body: bytes) -> None:
        if self._block is not None and (kind != CONTINUATION or number != self._block[0]):
            raise ProtocolError(PROTOCOL_ERROR, "a header block was not continued")
        if not self._settled and kind != SETTINGS:
            raise ProtocolError(PROTOCOL_ERROR, "the first frame has to be SETTINGS")
        match kind:
            case 0:
                self._on_data(flags, number, body)
            case 1:
                self._on_headers(flags, number, body)
            case 2:
                if len(body) != 5 or not number:
                    raise ProtocolError(FRAME_SIZE_ERROR, "malformed PRIORITY")
                self._patience.answerable()
            case 3:
                self._on_reset(number, body)
            case 4:
                self._on_settings(flags, number, body)
            case 5:
                raise ProtocolError(PROTOCOL_ERROR, "PUSH_PROMISE was not allowed")
            case 6:
                if len(body) != 8 or number:
                    raise ProtocolError(FRAME_SIZE_ERROR, "malformed PING")
                if not flags & ACK:
                    self._patience.answerable()
                    self._frame(PING, ACK, 0, body)
            case 7:
                if len(body) < 8 or number:
                    raise ProtocolError(FRAME_SIZE_ERROR, "malformed GOAWAY")
                self._on_goaway(*struct.unpack(">II", body[:8]))
            case 8:
                self._on_window(number, body)
            case 9:
                if self._block is None:
                    raise ProtocolError(PROTOCOL_ERROR, "CONTINUATION of nothing")
                self._extend(body, flags)
            case _:
                self._patience.answerable()

    def _on_data(self, flags: int, number: int, body: bytes) -> None:
        size = len(body)
        if flags & PADDED:
            if not body or body[0] >= size:
                raise ProtocolError(PROTOCOL_ERROR, "padding longer than its frame")
            body = body[1 : size - body[0]]
        stream = self.streams.get(number)
        if stream is None or stream.remote_closed:
            if (
                not number
                or (number > self._last_peer_id and self._is_peers(number))
                or (not self._is_peers(number) and number >= self._next_id)
            ):
                raise ProtocolError(PROTOCOL_ERROR, f"DATA on idle stream {number}")
            # Of a stream that we have reset: its bytes still count for the connection.
            self._account(size)
            self._consumed(size)
            self._patience.answerable()
            return
        self._data(stream, body, size, flags)

    def _data(self, stream: Stream, body: bytes | memoryview, size: int, flags: int) -> None:
        self._account(size)
        stream.unread += size
        if stream.unread > STREAM_WINDOW:
            raise ProtocolError(FLOW_CONTROL_ERROR, "more data than the stream's window allows")
        if size != len(body):
            stream.consumed(size - len(body))
        if body:
            self._patience.useful()
            stream.sink.on_data(body)
        elif not flags & END_STREAM:
            self._patience.answerable()
        if flags & END_STREAM:
            self._remote_end(stream)

    def _account(self, size: int) -> None:
        self._unused += size
        if self._unused > CONNECTION_WINDOW:
            raise ProtocolError(FLOW_CONTROL_ERROR, "more data than the connection's window allows")

    def _on_headers(self, flags: int, number: int, body: bytes) -> None:
        if not number:
            raise ProtocolError(PROTOCOL_ERROR, "HEADERS without a stream")
        start, stop = 0, len(body)
        if flags & PADDED:
            if not body:
                raise ProtocolError(FRAME_SIZE_ERROR, "malformed HEADERS")
            start, stop = 1, stop - body[0]
        if flags & HAS_PRIORITY:
            start += 5
        if start > stop:
            raise ProtocolError(PROTOCOL_ERROR, "padding longer than its frame")
        self._block = (number, bool(flags & END_STREAM), bytearray())
        self._extend(body[start:stop], flags)

    def _extend(self, part: bytes, flags: int) -> None:
        assert self._block is not None
        number, ends, block = self._block
        block += part
        if len(block) > MAX_BLOCK:
            raise ProtocolError(ENHANCE_YOUR_CALM, "the header block is too large")
        if not flags & END_HEADERS:
            if len(part) < _SMALL_PART:
                self._patience.answerable()
            return
        self._block = None
        headers, size = self._decoder.decode(bytes(block))
        self._headers(number, headers, size, ends)

    def _headers(self, number: int, headers: Headers, size: int, ends: bool) -> None:
        stream = self.streams.get(number)
        if stream is None:
            if self._client or not number & 1:
                if self._is_peers(number) or number >= self._next_id:
                    raise ProtocolError(PROTOCOL_ERROR, f"HEADERS on idle stream {number}")
                return  # of a stream that we have reset
            if number <= self._last_peer_id:
                return
            self._last_peer_id = number
            if self.going_away:
                self._frame(RST_STREAM, 0, number, _U32.pack(REFUSED_STREAM))
                return
            if len(self.streams) >= self._max_streams or self.held + size > MAX_HELD:
                self._patience.given_up()
                self._frame(RST_STREAM, 0, number, _U32.pack(REFUSED_STREAM))
                return
            stream = Stream(self, number, self.peer_window)
            self.streams[number] = stream
            stream.hold(size)
            sink = self._owner.opened(stream, headers)
            if sink is None:
                stream.reset(REFUSED_STREAM)
                return
            stream.sink = sink
        elif stream.remote_closed:
            raise ProtocolError(STREAM_CLOSED, f"HEADERS on closed stream {number}")
        else:
            stream.sink.on_headers(headers)
        if ends and number in self.streams:
            self._remote_end(stream)

    def _remote_end(self, stream: Stream) -> None:
        stream.remote_closed = True
        stream.sink.on_end()
        self._finish(stream)

    def _on_reset(self, number: int, body: bytes) -> None:
        if len(body) != 4:
            raise ProtocolError(FRAME_SIZE_ERROR, "malformed RST_STREAM")
        stream = self.streams.get(number)
        if stream is None:
            if not number or (self._is_peers(number) and number > self._last_peer_id):
                raise ProtocolError(PROTOCOL_ERROR, "RST_STREAM on an idle stream")
            self._patience.answerable()
            return
        if not self._client:
            self._patience.given_up()
        self._drop(stream, _U32.unpack(body)[0])

    def _on_settings(self, flags: int, number: int, body: bytes) -> None:
        if number or len(body) % 6 or (flags & ACK and body):
            raise ProtocolError(FRAME_SIZE_ERROR, "malformed SETTINGS")
        if flags & ACK:
            return
        self._settled = True
        self._patience.answerable()
        window = self.peer_window
        for key, value in _SETTING.iter_unpack(body):
            if key == INITIAL_WINDOW:
                if value > MAX_WINDOW:
                    raise ProtocolError(FLOW_CONTROL_ERROR, "the initial window is too large")
                window = value
            elif key == MAX_FRAME:
                if not 16384 <= value < 1 << 24:
                    raise ProtocolError(PROTOCOL_ERROR, "the largest frame is out of range")
                self.peer_frame = min(value, FRAME_SIZE)
            elif key == MAX_CONCURRENT:
                self.peer_max_streams = value
        if window != self.peer_window:
            self._resize(window)
        self._frame(SETTINGS, ACK, 0, b"")
        self._pump()

    def _resize(self, window: int) -> None:
        change, self.peer_window = window - self.peer_window, window
        self._patience.resized(len(self.streams))
        for stream in self.streams.values():
            stream.send_window += change
            if stream.pending and stream.send_window > 0:
                self._ready[stream] = None

    def _on_goaway(self, last: int, code: int) -> None:
        self.going_away = True
        for stream in list(self.streams.values()):
            if stream.id > last & MAX_WINDOW and not self._is_peers(stream.id):
                self._drop(stream, REFUSED_STREAM)

    def _on_window(self, number: int, body: bytes) -> None:
        if len(body) != 4:
            raise ProtocolError(FRAME_SIZE_ERROR, "malformed WINDOW_UPDATE")
        more = _U32.unpack(body)[0] & MAX_WINDOW
        if not number:
            if not more or self.send_window + more > MAX_WINDOW:
                raise ProtocolError(FLOW_CONTROL_ERROR, "the connection's window is out of range")
            self.send_window += more
        else:
            stream = self.streams.get(number)
            if stream is None:
                self._patience.answerable()
                return
            if not more or stream.send_window + more > MAX_WINDOW:
                # The peer makes us give its stream up: the same to us as if it did.
                self._frame(RST_STREAM, 0, number, _U32.pack(FLOW_CONTROL_ERROR if more else PROTOCOL_ERROR))
                if not self._client:
                    self._patience.given_up()
                self._drop(stream, CANCEL)
                return
            stream.send_window += more
            if stream.pending:
                self._ready[stream] = None
        self._patience.answerable() if not self._ready else self._pump()

    def _is_peers(self, number: int) -> bool:
        return bool(number & 1) != self._client

    # streams ---------------------------------------------------------------------------------------

    def open(self, headers: Headers, sink: Sink, *, end: bool = False) -> Stream:
        """Begin a stream (as client)."""
        stream = Stream(self, self._next_id, self.peer_window)
        stream.sink = sink
        self._next_id += 2
        self.streams[stream.id] = stream
        self.send_block(stream, encode_headers(headers), end=end)
        return stream

    def send_block(self, stream: Stream, block: bytes, *, end: bool) -> None:
        flags = END_STREAM if end else 0
        size = self.peer_frame
        if len(block) <= size:
            self._frame(HEADERS, flags | END_HEADERS, stream.id, block)
        else:
            self._frame(HEADERS, flags, stream.id, block[:size])
            for start in range(size, len(block), size):
                last = END_HEADERS if start + size >= len(block) else 0
                self._frame(CONTINUATION, last, stream.id, block[start : start + size])
        if end:
            stream.local_closed = True
            self._finish(stream)

    def ready(self, stream: Stream) -> None:
        """`stream` has something to send."""
        self._ready[stream] = None
        if not self.paused:
            self._pump()

    def waits(self, size: int) -> bool:
        """Count `size` bytes more (or fewer) that wait to be sent; whether the connection goes on."""
        if not self._patience.waits(size):
            self.close(ENHANCE_YOUR_CALM, "too much was asked for and not read")
        return not self.closed

    def pause(self) -> None:
        """The transport is full: keep data back. Control frames still go out."""
        self.paused = True

    def resume(self) -> None:
        self.paused = False
        self._pump()

    def _pump(self) -> None:
        """Send what windows and transport allow, streams in turn."""
        while self._ready and not self.paused and not self.closed:
            stream = next(iter(self._ready))
            del self._ready[stream]
            if stream.send_pending(min(_TURN, max(self.send_window, 0)), self.peer_frame):
                self._ready[stream] = None
                if self.send_window <= 0:
                    return

    def send_data(self, stream: Stream, data: bytes | memoryview, *, end: bool) -> None:
        size = len(data)
        self._out.append(
            bytes((size >> 16, size >> 8 & 255, size & 255, DATA, END_STREAM if end else 0))
            + _U32.pack(stream.id)
        )
        if size:
            self._out.append(data)  # type: ignore[arg-type]
        self._sent(size + 9)
        if end:
            stream.local_closed = True
            self._finish(stream)

    def send_reset(self, stream: Stream, code: int) -> None:
        if not self.closed:
            self._frame(RST_STREAM, 0, stream.id, _U32.pack(code))
        self._forget(stream)

    def send_window_update(self, stream: Stream, size: int) -> None:
        if not self.closed and not stream.remote_closed:
            self._frame(WINDOW_UPDATE, 0, stream.id, _U32.pack(size))

    def consumed(self, size: int) -> None:
        """The reader of a stream has taken `size` bytes."""
        self._consumed(size)

    def _consumed(self, size: int) -> None:
        self._unused -= size
        self._received_limit -= size
        if self._received_limit < CONNECTION_WINDOW // 2 and not self.closed:
            self._frame(WINDOW_UPDATE, 0, 0, _U32.pack(CONNECTION_WINDOW - self._received_limit))
            self._received_limit = CONNECTION_WINDOW

    def _finish(self, stream: Stream) -> None:
        if stream.remote_closed and stream.local_closed:
            self._patience.finished()
            self._forget(stream)

    def _forget(self, stream: Stream) -> None:
        """The stream is over. What its reader has not taken yet stays accounted for until it does."""
        self.streams.pop(stream.id, None)
        self._ready.pop(stream, None)
        stream.hold(-stream.held)

    def _drop(self, stream: Stream, code: int) -> None:
        """The peer gave the stream up."""
        self._forget(stream)
        stream.local_closed = stream.remote_closed = True
        stream.discard()
        stream.sink.on_reset(code)

    # output ----------------------------------------------------------------------------------------

    def _frame(self, kind: int, flags: int, number: int, body: bytes) -> None:
        size = len(body)
        self._put(bytes((size >> 16, size >> 8 & 255, size & 255, kind, flags)) + _U32.pack(number) + body)

    def _put(self, data: bytes) -> None:
        self._out.append(data)
        self._sent(len(data))

    def _sent(self, size: int) -> None:
        self._out_size += size
        if self._out_size >= _FLUSH:
            self.flush()
        elif not self._flushing and not self._feeding:
            self._flushing = True
            self._owner.schedule(self._flush_later)

    def _flush_later(self) -> None:
        self._flushing = False
        self.flush()

    def flush(self) -> None:
        """Hand over what has been gathered."""
        if self._out:
            data = b"".join(self._out)
            self._out.clear()
            self._out_size = 0
            if not self.paused:
                self._patience.answers_left()
            self._owner.write(data)

    def internal_error(self, message: str) -> None:
        """Something of ours failed."""
        self.close(INTERNAL_ERROR, message)
