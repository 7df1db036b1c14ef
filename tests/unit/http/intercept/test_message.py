"""Messages of HTTP/1.1: what two readers could understand differently is refused."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from anyarch.http.intercept.message import (
    CHUNKED,
    UNTIL_CLOSE,
    Body,
    Broken,
    Wire,
    end_to_end,
    length_of,
)
from anyarch.http.intercept.request import request_of
from anyarch.http.intercept.target import Refusal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anyarch.http.intercept.message import Head


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    one, other = socket.socketpair()
    with one, other:
        yield one, other
        one.shutdown(socket.SHUT_RDWR)


def wire_of(pair: tuple[socket.socket, socket.socket], raw: bytes, *, closes: bool = True) -> Wire:
    one, other = pair

    def send() -> None:
        with suppress(OSError):  # not all of it is wanted
            other.sendall(raw)
            if closes:
                other.shutdown(socket.SHUT_WR)

    threading.Thread(target=send).start()
    return Wire(one, idle_s=5)


def head_of(raw: bytes, pair: tuple[socket.socket, socket.socket], *, is_lenient: bool = False) -> Head:
    found = wire_of(pair, raw).head(whole_s=5, is_lenient=is_lenient)
    assert found is not None
    return found


GET = b"GET http://example.com/ HTTP/1.1\r\n"


def test_a_head_is_read_to_its_end_and_no_further(pair: tuple[socket.socket, socket.socket]) -> None:
    wire = wire_of(pair, GET + b"A: 1\r\na:  2 \r\n\r\nrest")
    head = wire.head(whole_s=5)
    assert head is not None
    assert (head.start, head.get("a")) == ("GET http://example.com/ HTTP/1.1", "1, 2")
    assert wire.some(100) == b"rest"


@pytest.mark.parametrize(
    "line",
    [
        b"A : 1",
        b" folded",
        b"\tfolded",
        b"no colon",
        b": nameless",
        b"A: 1\nB: 2",
        b"A: 1\rB: 2",
        b"A: \x00",
        b"A\xe4: 1",
    ],
)
def test_malformed_fields_are_refused(line: bytes, pair: tuple[socket.socket, socket.socket]) -> None:
    with pytest.raises(Refusal) as refused:
        head_of(GET + line + b"\r\n\r\n", pair)
    assert refused.value.status == 400


@pytest.mark.parametrize("raw", [b"A: " + b"x" * (1 << 16), b"\r\n".join([b"A: 1"] * 300)])
def test_a_head_that_is_too_large_is_refused(raw: bytes, pair: tuple[socket.socket, socket.socket]) -> None:
    with pytest.raises(Refusal) as refused:
        head_of(GET + raw + b"\r\n\r\n", pair)
    assert refused.value.status == 431


def test_a_head_has_to_be_there_in_time(pair: tuple[socket.socket, socket.socket]) -> None:
    with pytest.raises(Refusal) as refused:
        wire_of(pair, GET, closes=False).head(whole_s=0.1)
    assert refused.value.status == 408


def test_answers_may_end_their_lines_by_a_newline_alone(pair: tuple[socket.socket, socket.socket]) -> None:
    head = head_of(b"HTTP/1.1 200 OK\nA: 1\nB: 2\n\nbody", pair, is_lenient=True)
    assert head.fields == (("A", "1"), ("B", "2"))


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ("Content-Length: 1\r\nTransfer-Encoding: chunked", 400),
        ("Transfer-Encoding: chunked\r\nContent-Length: 0", 400),
        ("Content-Length: 1\r\nContent-Length: 1", 400),
        ("Content-Length: 1, 1", 400),
        ("Content-Length: +1", 400),
        ("Content-Length: -1", 400),
        ("Content-Length: 0x1", 400),
        ("Content-Length: 1_0", 400),
        ("Content-Length:", 400),
        ("Transfer-Encoding: gzip, chunked", 400),
        ("Transfer-Encoding: identity", 400),
        ("Transfer-Encoding: xchunked", 400),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", 400),
        ("Host: a.example\r\nHost: b.example", 400),
        ("Host: a.example, b.example", 400),
        ("Host: user@a.example", 400),
    ],
)
def test_requests_of_two_meanings_are_refused(
    fields: str, status: int, pair: tuple[socket.socket, socket.socket]
) -> None:
    head = head_of(GET + fields.encode() + b"\r\n\r\n", pair)
    with pytest.raises(Refusal) as refused:
        request_of(head, None)
    assert refused.value.status == status


@pytest.mark.parametrize(
    ("start", "status"),
    [
        (b"GET  http://example.com/ HTTP/1.1", 400),
        (b"GET http://example.com/", 400),
        (b"GET http://example.com/ HTTP/1.1 ", 400),
        (b"G\x01T http://example.com/ HTTP/1.1", 400),
        (b"GET\thttp://example.com/ HTTP/1.1", 400),
        (b"GET http://example.com/ HTTP/2.0", 505),
        (b"GET http://example.com/ http/1.1", 400),
        (b"PRI * HTTP/2.0", 505),
        (b"\x16\x03\x01", 400),
    ],
)
def test_malformed_request_lines_are_refused(
    start: bytes, status: int, pair: tuple[socket.socket, socket.socket]
) -> None:
    with pytest.raises(Refusal) as refused:
        request_of(head_of(start + b"\r\n\r\n", pair), None)
    assert refused.value.status == status


def test_chunks_of_http_1_0_are_refused(pair: tuple[socket.socket, socket.socket]) -> None:
    raw = b"POST http://example.com/ HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"
    with pytest.raises(Refusal):
        request_of(head_of(raw, pair), None)


@pytest.mark.parametrize(
    ("fields", "length"),
    [("", None), ("Content-Length: 12", 12), ("Transfer-Encoding: Chunked", CHUNKED)],
)
def test_the_length_of_a_body(
    fields: str, length: int | None, pair: tuple[socket.socket, socket.socket]
) -> None:
    raw = GET + (fields + "\r\n" if fields else "").encode() + b"\r\n"
    assert length_of(head_of(raw, pair), 400) == length


def test_what_is_for_one_connection_is_not_passed_on(pair: tuple[socket.socket, socket.socket]) -> None:
    fields = (
        b"Connection: close, X-Own\r\nX-Own: 1\r\nKeep-Alive: 1\r\nTE: trailers\r\nUpgrade: h2c\r\nX: 2\r\n"
    )
    assert end_to_end(head_of(GET + fields + b"\r\n", pair)) == [("X", "2")]


def whole(body: Body) -> bytes:
    found = b""
    while data := body.read():
        found += data
    return found


@pytest.mark.parametrize(
    ("raw", "content"),
    [
        (b"0\r\n\r\n", b""),
        (b"3\r\nabc\r\n0\r\n\r\n", b"abc"),
        (b"003;name=value\r\nabc\r\nA\r\n0123456789\r\n0\r\nTrailer: 1\r\n\r\n", b"abc0123456789"),
    ],
)
def test_chunks_are_read(raw: bytes, content: bytes, pair: tuple[socket.socket, socket.socket]) -> None:
    wire = wire_of(pair, raw + b"next")
    body = Body(wire, CHUNKED)
    assert whole(body) == content
    assert body.is_done
    assert wire.some(10) == b"next"


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"3\r\nab",
        b"3\r\nabc",
        b"3\r\nabcd\r\n",
        b"3\nabc\r\n0\r\n\r\n",
        b"+3\r\nabc\r\n",
        b"0x3\r\nabc\r\n",
        b" 3\r\nabc\r\n",
        b"-1\r\nabc\r\n",
        b"ffffffffffffffff\r\nabc",
        b"3 x\r\nabc\r\n",
        b"3\r\nabc\r\n0\r\n",
        b"0\r\n" + b"Trailer: 1\r\n" * 5000 + b"\r\n",
        b"3;" + b"x" * 10000 + b"\r\nabc",
    ],
)
def test_malformed_chunks_end_it(raw: bytes, pair: tuple[socket.socket, socket.socket]) -> None:
    body = Body(wire_of(pair, raw), CHUNKED)
    with pytest.raises((Broken, ConnectionResetError)):
        whole(body)
    assert not body.is_done


def test_a_body_that_is_cut_short_is_told(pair: tuple[socket.socket, socket.socket]) -> None:
    with pytest.raises(Broken):
        whole(Body(wire_of(pair, b"abc"), 4))


def test_a_body_without_length_ends_with_the_connection(pair: tuple[socket.socket, socket.socket]) -> None:
    body = Body(wire_of(pair, b"abc"), UNTIL_CLOSE)
    assert whole(body) == b"abc"
    assert body.is_done
