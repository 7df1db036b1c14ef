"""The HTTP/2 core against `h2` as an independent peer, and against peers that break the protocol."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import h2.config
import h2.connection
import h2.events
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anyarch.api.http2.connection import PREFACE, Connection
from anyarch.api.http2.errors import (
    CANCEL,
    COMPRESSION_ERROR,
    ENHANCE_YOUR_CALM,
    FLOW_CONTROL_ERROR,
    FRAME_SIZE_ERROR,
    PROTOCOL_ERROR,
)
from anyarch.api.http2.header import encode_headers

if TYPE_CHECKING:
    from collections.abc import Callable

    from anyarch.api.http2.header import Headers
    from anyarch.api.http2.stream import Stream

REQUEST = [(":method", "POST"), (":scheme", "http"), (":path", "/a.B/C"), (":authority", "localhost")]


class Sink:
    def __init__(self, stream: Stream | None = None) -> None:
        self.stream = stream
        self.headers: list[Headers] = []
        self.data = b""
        self.ended = False
        self.reset: int | None = None
        self.drained = 0
        self.reads = True

    def on_headers(self, headers: Headers) -> None:
        self.headers.append(headers)

    def on_data(self, data: bytes) -> None:
        self.data += data
        if self.reads:
            assert self.stream is not None
            self.stream.consumed(len(data))

    def on_end(self) -> None:
        self.ended = True

    def on_reset(self, code: int) -> None:
        self.reset = code

    def on_writable(self) -> None:
        self.drained += 1


class End:
    """Our connection and what it wrote."""

    def __init__(self, *, client: bool, max_streams: int = 1000) -> None:
        self.out = b""
        self.sinks: list[Sink] = []
        self.lost_code: int | None = None
        self.connection = Connection(self, client=client, max_streams=max_streams)
        self.connection.start()

    def write(self, data: bytes) -> None:
        self.out += data

    def schedule(self, flush: Callable[[], None]) -> None:
        flush()

    def opened(self, stream: Stream, headers: Headers) -> Sink:
        sink = Sink(stream)
        sink.headers.append(headers)
        self.sinks.append(sink)
        return sink

    def lost(self, code: int, message: str) -> None:
        self.lost_code = code

    def take(self) -> bytes:
        data, self.out = self.out, b""
        return data


def peer(*, client: bool) -> h2.connection.H2Connection:
    made = h2.connection.H2Connection(
        h2.config.H2Configuration(client_side=client, validate_outbound_headers=False)
    )
    made.initiate_connection()
    return made


def exchange(end: End, other: h2.connection.H2Connection, *, chunk: int = 0) -> list[h2.events.Event]:
    """Carry bytes both ways until both are silent."""
    events: list[h2.events.Event] = []
    while True:
        there, back = end.take(), other.data_to_send()
        if not there and not back:
            return events
        if there:
            events += other.receive_data(there)
        step = chunk or len(back) or 1
        for start in range(0, len(back), step):
            end.connection.feed(back[start : start + step])


@pytest.mark.parametrize("chunk", [0, 1, 7])
def test_a_request_of_h2_arrives_whatever_the_pieces(chunk: int) -> None:
    end, other = End(client=False), peer(client=True)
    other.send_headers(1, [*REQUEST, ("x-many", "1"), ("x-many", "2")])
    other.send_data(1, b"hello ")
    other.send_data(1, b"world", end_stream=True, pad_length=9)
    exchange(end, other, chunk=chunk)
    (sink,) = end.sinks
    assert sink.headers == [[*REQUEST, ("x-many", "1"), ("x-many", "2")]]
    assert sink.data == b"hello world"
    assert sink.ended


def test_an_answer_reaches_h2_with_its_trailers() -> None:
    end, other = End(client=False), peer(client=True)
    other.send_headers(1, REQUEST, end_stream=True)
    exchange(end, other)
    stream = end.sinks[0].stream
    assert stream is not None
    stream.send_headers([(":status", "200")])
    stream.send(b"body")
    stream.end(encode_headers([("grpc-status", "0")]))
    events = exchange(end, other)
    assert [type(event).__name__ for event in events] == [
        "ResponseReceived",
        "DataReceived",
        "TrailersReceived",
        "StreamEnded",
    ]
    assert not end.connection.streams


def test_as_client_it_asks_h2_and_gets_the_answer() -> None:
    end, other = End(client=True), peer(client=False)
    sink = Sink()
    sink.stream = end.connection.open(REQUEST, sink)
    sink.stream.send(b"question")
    sink.stream.end()
    events = exchange(end, other)
    assert [type(e).__name__ for e in events if "Setting" not in type(e).__name__][:3] == [
        "WindowUpdated",
        "RequestReceived",
        "DataReceived",
    ]
    other.send_headers(1, [(":status", "200")])
    other.send_data(1, b"answer", end_stream=True)
    exchange(end, other)
    assert (sink.data, sink.ended) == (b"answer", True)


def test_a_header_block_larger_than_a_frame_is_continued() -> None:
    end, other = End(client=True), peer(client=False)
    other.max_header_list_size = 1 << 20  # type: ignore[attr-defined]
    other.decoder.max_header_list_size = 1 << 20
    many = [(f"x-{n}", "v" * 100) for n in range(400)]
    end.connection.open([*REQUEST, *many], Sink(), end=True)
    events = exchange(end, other)
    (request,) = [e for e in events if isinstance(e, h2.events.RequestReceived)]
    assert len(request.headers) == 404


def test_what_the_peers_window_does_not_allow_waits_for_it() -> None:
    end, other = End(client=True), peer(client=False)
    sink = Sink()
    sink.stream = stream = end.connection.open(REQUEST, sink)
    exchange(end, other)
    body = random.Random(1).randbytes(300_000)
    stream.send(body)
    stream.end()
    got = b""
    events = exchange(end, other)
    assert stream.pending == len(body) - 65535
    assert sink.drained == 0
    while events:
        for event in events:
            if isinstance(event, h2.events.DataReceived):
                got += event.data or b""
                other.acknowledge_received_data(event.flow_controlled_length or 0, 1)
        events = exchange(end, other)
    assert got == body
    assert sink.drained == 1
    assert stream.local_closed


def test_a_reader_that_reads_lets_megabytes_through() -> None:
    end, other = End(client=False), peer(client=True)
    other.send_headers(1, REQUEST)
    exchange(end, other)
    sent = 0
    while sent < 20 << 20:
        size = min(16384, other.local_flow_control_window(1))
        assert size > 0
        other.send_data(1, b"x" * size)
        sent += size
        exchange(end, other)
    assert len(end.sinks[0].data) == sent


def test_a_reader_that_does_not_read_stops_the_peer_at_the_window() -> None:
    end, other = End(client=False), peer(client=True)
    other.send_headers(1, REQUEST)
    exchange(end, other)
    end.sinks[0].reads = False
    sent = 0
    while size := min(16384, other.local_flow_control_window(1)):
        other.send_data(1, b"x" * size)
        sent += size
        exchange(end, other)
    assert sent == 4 << 20
    # what another stream needs is still there
    other.send_headers(3, REQUEST)
    other.send_data(3, b"y")
    exchange(end, other)
    assert end.sinks[1].data == b"y"


def test_streams_that_wait_for_the_same_window_take_turns() -> None:
    end, other = End(client=True), peer(client=False)
    sinks = [Sink(), Sink()]
    exchange(end, other)
    for sink in sinks:
        sink.stream = end.connection.open(REQUEST, sink)
        sink.stream.send(b"x" * 100_000)
    first = exchange(end, other)
    assert sum(e.flow_controlled_length or 0 for e in first if isinstance(e, h2.events.DataReceived)) == 65535
    other.increment_flow_control_window(200_000)
    for number in (1, 3):
        other.increment_flow_control_window(200_000, number)
    exchange(end, other)
    assert [sink.stream.pending for sink in sinks if sink.stream] == [0, 0]


def test_a_reset_ends_the_stream_and_frees_it() -> None:
    end, other = End(client=False), peer(client=True)
    other.send_headers(1, REQUEST)
    other.reset_stream(1, CANCEL)
    exchange(end, other)
    assert end.sinks[0].reset == CANCEL
    assert not end.connection.streams
    assert end.lost_code is None


def test_data_for_a_stream_that_we_gave_up_is_dropped_and_accounted() -> None:
    end, other = End(client=False), peer(client=True)
    other.send_headers(1, REQUEST)
    exchange(end, other)
    stream = end.sinks[0].stream
    assert stream is not None
    stream.reset()
    other.send_data(1, b"late", end_stream=True)  # it does not know yet
    late = other.data_to_send()
    exchange(end, other)
    end.connection.feed(late)
    assert end.lost_code is None
    assert end.sinks[0].data == b""


def test_more_streams_than_announced_are_refused_one_by_one() -> None:
    end = End(client=False, max_streams=2)
    raw = Raw(end)
    for number in (1, 3, 5):
        raw.frame(1, 4, number, encode_headers(REQUEST))
    assert len(end.sinks) == 2
    assert raw.end.lost_code is None
    assert (3, 5) in raw.frames()  # RST_STREAM of the third


# peers that break the protocol ----------------------------------------------------------------------


class Raw:
    """A client that sends whatever frame a test wants."""

    def __init__(self, end: End | None = None) -> None:
        self.end = end or End(client=False)
        self.end.connection.feed(PREFACE)
        self.frame(4, 0, 0, b"")

    def frame(self, kind: int, flags: int, number: int, body: bytes) -> None:
        head = len(body).to_bytes(3, "big") + bytes((kind, flags)) + number.to_bytes(4, "big")
        self.end.connection.feed(head + body)

    def frames(self) -> list[tuple[int, int]]:
        """Kind and stream of what was answered."""
        data, found = self.end.out, []
        while data:
            found.append((data[3], int.from_bytes(data[5:9], "big")))
            data = data[9 + int.from_bytes(data[:3], "big") :]
        return found


BLOCK = encode_headers(REQUEST)


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        ((0, 0, 1, b"data on an idle stream"), PROTOCOL_ERROR),
        ((0, 0, 0, b"data on the connection"), PROTOCOL_ERROR),
        ((1, 4, 0, BLOCK), PROTOCOL_ERROR),
        ((1, 4, 2, BLOCK), PROTOCOL_ERROR),
        ((1, 4, 1, b"\xff\xff\xff\xff\xff"), COMPRESSION_ERROR),
        ((1, 4, 1, b"\xbf"), COMPRESSION_ERROR),
        ((1, 12, 1, b"\x50" + BLOCK[:3]), PROTOCOL_ERROR),
        ((2, 0, 1, b"12"), FRAME_SIZE_ERROR),
        ((3, 0, 1, b"\0\0\0\0"), PROTOCOL_ERROR),
        ((3, 0, 1, b"\0\0"), FRAME_SIZE_ERROR),
        ((4, 0, 1, b""), FRAME_SIZE_ERROR),
        ((4, 0, 0, b"12345"), FRAME_SIZE_ERROR),
        ((4, 0, 0, b"\0\x04\xff\xff\xff\xff"), FLOW_CONTROL_ERROR),
        ((4, 0, 0, b"\0\x05\0\0\0\1"), PROTOCOL_ERROR),
        ((5, 0, 1, b"\0\0\0\2"), PROTOCOL_ERROR),
        ((6, 0, 0, b"1234"), FRAME_SIZE_ERROR),
        ((6, 0, 3, b"12345678"), FRAME_SIZE_ERROR),
        ((7, 0, 0, b"1"), FRAME_SIZE_ERROR),
        ((8, 0, 0, b"\0\0\0\0"), FLOW_CONTROL_ERROR),
        ((8, 0, 0, b"\x7f\xff\xff\xff"), FLOW_CONTROL_ERROR),
        ((9, 4, 1, BLOCK), PROTOCOL_ERROR),
    ],
)
def test_a_frame_that_is_not_allowed_ends_the_connection(
    frame: tuple[int, int, int, bytes], code: int
) -> None:
    raw = Raw()
    raw.frame(*frame)
    assert raw.end.lost_code == code
    assert raw.frames()[-1][0] == 7  # GOAWAY says why
    raw.frame(6, 0, 0, b"12345678")  # nothing more is answered
    assert raw.frames()[-1][0] == 7


def test_bytes_that_are_not_http2_end_the_connection() -> None:
    end = End(client=False)
    end.connection.feed(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert end.lost_code == PROTOCOL_ERROR


def test_a_frame_larger_than_announced_is_refused_before_it_is_buffered() -> None:
    raw = Raw()
    raw.end.connection.feed(b"\xff\xff\xff\0\0\0\0\0\1" + b"x" * 100)
    assert raw.end.lost_code == FRAME_SIZE_ERROR


def test_a_header_block_without_end_is_cut_off() -> None:
    raw = Raw()
    raw.frame(1, 0, 1, b"")
    for _ in range(40):
        raw.frame(9, 0, 1, b"\0" * 60_000)
    assert raw.end.lost_code == ENHANCE_YOUR_CALM


def test_a_small_block_that_unpacks_to_a_huge_list_is_refused() -> None:
    """An HPACK bomb: one large entry in the table, named by one byte a time."""
    entry = b"\x40\x01x" + b"\x7f\xa1\x1e" + b"y" * 4000
    block = entry + b"\xbe" * 60_000
    raw = Raw()
    raw.frame(1, 4, 1, block)
    assert raw.end.lost_code == ENHANCE_YOUR_CALM
    assert not raw.end.sinks


def test_streams_opened_and_reset_in_haste_end_the_connection() -> None:
    raw = Raw()
    for number in range(1, 10_001, 2):
        raw.frame(1, 4, number, BLOCK)
        raw.frame(3, 0, number, b"\0\0\0\x08")
        if raw.end.lost_code is not None:
            break
    assert raw.end.lost_code == ENHANCE_YOUR_CALM


def test_pings_that_nobody_reads_the_answers_of_end_the_connection() -> None:
    raw = Raw()
    raw.end.connection.pause()  # the socket is full
    for _ in range(20_000):
        raw.frame(6, 0, 0, b"12345678")
        if raw.end.lost_code is not None:
            break
    assert raw.end.lost_code == ENHANCE_YOUR_CALM


BODIES = st.binary(max_size=40) | st.just(BLOCK)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400))
def test_garbage_after_the_greeting_never_raises(data: bytes) -> None:
    raw = Raw()
    raw.end.connection.feed(data)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 11),
            st.integers(0, 255),
            st.integers(0, 9),
            st.binary(max_size=40) | st.just(BLOCK),
        ),
        max_size=30,
    )
)
def test_frames_in_any_order_never_raise(frames: list[tuple[int, int, int, bytes]]) -> None:
    raw = Raw()
    for frame in frames:
        raw.frame(*frame)
    if raw.end.lost_code is None:
        assert raw.end.connection.streams.keys() <= set(range(10))
