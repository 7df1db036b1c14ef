"""Peers that mean harm: what they can make us keep, and do, is bounded."""

from __future__ import annotations

import asyncio
import gzip
import socket
import struct
import time
import tracemalloc
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anyarch.api.http2.connection import PREFACE
from anyarch.api.http2.errors import COMPRESSION_ERROR, ENHANCE_YOUR_CALM
from anyarch.api.http2.header import encode_headers
from anyarch.api.http2.patience import MAX_PENDING
from anyarch.api.http2.stream import MAX_HELD
from anyarch.api.proto.control_pb2 import SolveRequest
from anyarch.api.rpc import socket as rpc_socket
from anyarch.api.rpc.fieldcount import has_more_fields
from anyarch.api.rpc.server import unary
from anyarch.api.rpc.socket import connect_unix
from anyarch.api.rpc.status import Code, RpcError
from anyarch.api.rpc.turns import Turns

from .test_http2 import BLOCK, End, Raw
from .test_rpc import Bytes, double, run, serving

if TYPE_CHECKING:
    from pathlib import Path

    from anyarch.api.rpc.server import ServerCall

DATA, HEADERS, RST_STREAM, SETTINGS, PING, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 8, 9
WINDOW_OF = struct.Struct(">HI")


def frame(kind: int, flags: int, number: int, body: bytes) -> bytes:
    return len(body).to_bytes(3, "big") + bytes((kind, flags)) + number.to_bytes(4, "big") + body


async def solved(request: SolveRequest, call: ServerCall) -> Bytes:
    return Bytes(data=b"%d" % len(request.Ref))


class Watched:
    """The memory that this process's Python objects take more than at the beginning."""

    def __enter__(self) -> Watched:
        tracemalloc.start()
        return self

    def __exit__(self, *_: object) -> None:
        tracemalloc.stop()

    @property
    def grown(self) -> int:
        return tracemalloc.get_traced_memory()[0]


def test_small_blocks_that_unpack_to_large_lists_are_kept_up_to_a_limit() -> None:
    """Each is within the limit of one; a thousand streams would keep gigabytes of them."""
    entry = b"\x40\x01x" + b"\x7f\xa1\x1e" + b"y" * 4000
    raw = Raw()
    with Watched() as memory:
        raw.frame(HEADERS, 4, 1, BLOCK + entry)
        for number in range(3, 81, 2):
            raw.frame(HEADERS, 4, number, BLOCK + b"\xbe" * 900)
        assert memory.grown < 2 * MAX_HELD
    assert 10 < len(raw.end.sinks) < 30
    refused = [stream for kind, stream in raw.frames() if kind == RST_STREAM]
    assert len(refused) == 40 - len(raw.end.sinks)
    # What is given back makes room.
    for sink in raw.end.sinks:
        assert sink.stream is not None
        sink.stream.reset()
    assert raw.end.connection.held == 0
    raw.frame(HEADERS, 4, 501, BLOCK + b"\xbe" * 900)
    assert raw.end.sinks[-1].stream is not None
    assert raw.end.sinks[-1].stream.id == 501


@pytest.mark.parametrize("more", [0, 0x7FFFFFFF])
def test_a_stream_that_the_peer_makes_us_reset_is_told_to_its_taker(more: int) -> None:
    raw = Raw()
    raw.frame(HEADERS, 4, 1, BLOCK)
    raw.frame(WINDOW_UPDATE, 0, 1, more.to_bytes(4, "big"))
    assert raw.end.sinks[0].reset is not None
    assert not raw.end.connection.streams
    assert (RST_STREAM, 1) in raw.frames()


def test_streams_that_we_are_made_to_reset_in_haste_end_the_connection() -> None:
    raw = Raw()
    for number in range(1, 10_001, 2):
        raw.frame(HEADERS, 4, number, BLOCK)
        raw.frame(WINDOW_UPDATE, 0, number, b"\0\0\0\0")
        if raw.end.lost_code is not None:
            break
    assert raw.end.lost_code == ENHANCE_YOUR_CALM


def test_windows_that_change_without_end_end_the_connection() -> None:
    """Each change is one of all streams: a few bytes that cost us a thousand times as much."""
    raw = Raw()
    for number in range(1, 2001, 2):
        raw.frame(HEADERS, 4, number, BLOCK)
    there_and_back = WINDOW_OF.pack(4, 0) + WINDOW_OF.pack(4, 70_000)
    raw.frame(SETTINGS, 0, 0, there_and_back * 80_000)  # the last one counts, at the cost of one
    assert raw.end.lost_code is None
    assert {stream.send_window for stream in raw.end.connection.streams.values()} == {70_000}
    for size in range(1, 10_000):
        raw.frame(SETTINGS, 0, 0, WINDOW_OF.pack(4, size))
        if raw.end.lost_code is not None:
            break
    assert raw.end.lost_code == ENHANCE_YOUR_CALM
    assert size < 2000


def test_answers_that_nobody_reads_are_kept_up_to_a_limit() -> None:
    raw = Raw()
    raw.frame(SETTINGS, 0, 0, WINDOW_OF.pack(4, 0))
    answer = b"x" * (16 << 20)
    for number in range(1, 2001, 2):
        raw.frame(HEADERS, 4, number, BLOCK)
        stream = raw.end.sinks[-1].stream
        assert stream is not None
        stream.send(answer)
        if raw.end.lost_code is not None:
            break
    assert raw.end.lost_code == ENHANCE_YOUR_CALM
    assert len(raw.end.sinks) == MAX_PENDING // len(answer) + 1
    assert all(sink.reset is not None for sink in raw.end.sinks)


def test_answers_that_were_given_up_or_sent_no_longer_count() -> None:
    raw = Raw()
    raw.end.write = lambda data: None  # type: ignore[method-assign]
    answer = b"x" * (16 << 20)
    for number in range(1, 81, 2):
        raw.frame(HEADERS, 4, number, BLOCK)
        stream = raw.end.sinks[-1].stream
        assert stream is not None
        stream.send(answer)
        if number % 4 == 1:
            raw.frame(RST_STREAM, 0, number, b"\0\0\0\x08")
        else:
            for target in (0, number):
                raw.frame(WINDOW_UPDATE, 0, target, len(answer).to_bytes(4, "big"))
    assert raw.end.lost_code is None


def test_a_frame_that_comes_byte_by_byte_is_put_together_once() -> None:
    """The bytes that are copied are as many as the frame has, not its square."""
    raw = Raw()
    raw.frame(HEADERS, 4, 1, BLOCK)
    size = 600_000
    frame = size.to_bytes(3, "big") + bytes((DATA, 1)) + b"\0\0\0\1" + b"z" * size
    raw.end.connection.feed(frame[:4])
    used = time.process_time()
    for position in range(4, len(frame)):
        raw.end.connection.feed(frame[position : position + 1])
    # The square would be 180 GB: half a minute of copying. Processor time, and ten times what it takes.
    assert time.process_time() - used < 10
    assert raw.end.sinks[0].data == b"z" * size
    assert raw.end.sinks[0].ended


def test_beginnings_of_large_messages_are_kept_up_to_a_limit(tmp_path: Path) -> None:
    async def work() -> None:
        async with serving(tmp_path, {"/t.T/Double": unary(Bytes, double)}) as address:
            channel = await connect_unix(address)
            calls = [channel.start("/t.T/Double") for _ in range(12)]
            head = b"\0" + (15 << 20).to_bytes(4, "big")
            for call in calls:
                for part in (head, *[b"x" * (1 << 20)] * 14):
                    call.stream.send(part)
            answers = [asyncio.ensure_future(call.recv()) for call in calls]
            waiting = set(answers)
            over: set[asyncio.Future[bytes | None]] = set()
            while len(waiting) > MAX_HELD // (14 << 20):
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                over |= done
            await channel.unary("/t.T/Double", Bytes(data=b"a"), Bytes)  # what came before it was looked at
            failed = [answer.exception() for answer in over]
            assert not any(answer.done() for answer in waiting)
            assert all(isinstance(e, RpcError) and e.code == Code.RESOURCE_EXHAUSTED for e in failed)
            for call in calls:
                call.cancel()
            await asyncio.wait(answers)
            assert all(answer.exception() is not None for answer in answers)
            answer = await channel.unary("/t.T/Double", Bytes(data=b"a" * (5 << 20)), Bytes)
            assert answer.data == b"a" * (10 << 20)
            channel.close()

    run(work())


def test_compressed_messages_that_nobody_reads_stay_compressed(tmp_path: Path) -> None:
    async def work() -> None:
        begun, go_on = asyncio.Event(), asyncio.Event()
        sizes: list[int] = []

        async def slow(call: ServerCall) -> None:
            begun.set()
            await go_on.wait()
            sizes.extend([len(message.data) async for message in call.messages(Bytes)])

        async with serving(tmp_path, {"/t.T/Slow": slow}) as address:
            channel = await connect_unix(address)
            call = channel.start("/t.T/Slow", metadata=[("grpc-encoding", "gzip")])
            packed = gzip.compress(Bytes(data=b"z" * 4_000_000).SerializeToString())
            with Watched() as memory:
                for _ in range(50):  # 200 MB in 200 kB
                    call.stream.send(b"\1" + len(packed).to_bytes(4, "big") + packed)
                call.end()
                await begun.wait()
                for _ in range(20):
                    await asyncio.sleep(0.01)
                assert memory.grown < 50_000_000
            go_on.set()
            assert await call.recv() is None
            assert sizes == [4_000_000] * 50
            channel.close()

    run(work())


def test_who_never_begins_is_disconnected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpc_socket, "GREETING_S", 0.2)

    async def work() -> None:
        async with serving(tmp_path, {"/t.T/Double": unary(Bytes, double)}) as address:
            patient = await connect_unix(address)
            reader, writer = await asyncio.open_unix_connection(address)
            writer.write(b"PRI * HTTP/2.0\r\n")  # and no more
            async with asyncio.timeout(20):
                while await reader.read(1000):
                    pass
            writer.close()
            answer = await patient.unary("/t.T/Double", Bytes(data=b"a"), Bytes)
            assert answer.data == b"aa"
            patient.close()

    run(work())


def test_who_never_reads_does_not_keep_a_connection_that_was_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rpc_socket, "LINGER_S", 0.2)

    async def work() -> None:
        async with serving(tmp_path, {"/t.T/Double": unary(Bytes, double)}) as address:
            loop = asyncio.get_running_loop()
            with socket.socket(socket.AF_UNIX) as peer:
                peer.setblocking(False)
                await loop.sock_connect(peer, address)
                await loop.sock_sendall(peer, PREFACE + frame(SETTINGS, 0, 0, b""))
                ping = frame(PING, 0, 0, b"x" * 8)
                with pytest.raises((BrokenPipeError, ConnectionResetError)):
                    async with asyncio.timeout(60):
                        while True:
                            await loop.sock_sendall(peer, ping * 10_000)

    run(work())


def test_updates_of_the_table_of_headers_are_few() -> None:
    raw = Raw()
    raw.frame(HEADERS, 4, 1, b"\x3f\xe1\x1f\x20" + BLOCK)
    assert raw.end.lost_code is None
    raw.frame(HEADERS, 4, 3, b"\x20\x3f\xe1\x1f" * 5 + BLOCK)
    assert raw.end.lost_code == COMPRESSION_ERROR


def test_blocks_in_tiny_parts_end_the_connection() -> None:
    raw = Raw()
    raw.frame(HEADERS, 0, 1, BLOCK)
    raw.end.connection.feed(frame(CONTINUATION, 0, 1, b"\0") * 20_000)
    assert raw.end.lost_code == ENHANCE_YOUR_CALM


def test_messages_of_many_parts_are_refused_before_they_are_parsed(tmp_path: Path) -> None:
    """Parsed, each of these takes a hundred times its two bytes."""

    async def work() -> None:
        async with serving(tmp_path, {"/t.T/Solve": unary(SolveRequest, solved)}) as address:
            channel = await connect_unix(address)
            many = b"\x6a\x00" * 2_000_001  # exporters, empty
            # in the graph, whose size is this varint, steps of no bytes
            inside = b"\x12\x82\x92\xf4\x01" + b"\x0a\x00" * 2_000_001
            for raw in (many, inside):
                call = channel.start("/t.T/Solve")
                await call.send(raw)
                call.end()
                with pytest.raises(RpcError, match="has more than 2000000 fields"):
                    await call.recv()
            large = SolveRequest(Ref="r" * (3 << 20))
            assert await channel.unary("/t.T/Solve", large, Bytes) == Bytes(data=b"3145728")
            channel.close()

    run(work())


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=60))
def test_counting_fields_never_raises(raw: bytes) -> None:
    assert not has_more_fields(raw, SolveRequest.DESCRIPTOR, len(raw) + 1)


def test_a_client_that_does_not_read_has_a_few_of_its_large_answers_made(tmp_path: Path) -> None:
    async def work() -> None:
        made = 0

        async def large(request: Bytes, call: ServerCall) -> Bytes:
            nonlocal made
            made += 1
            return Bytes(data=b"x" * (15 << 20))

        large_block = encode_headers(
            [
                (":method", "POST"),
                (":scheme", "http"),
                (":path", "/t.T/Large"),
                ("content-type", "application/grpc"),
            ]
        )
        async with serving(tmp_path, {"/t.T/Large": Turns(3).few(unary(Bytes, large))}) as address:
            other = await connect_unix(address)
            _reader, writer = await asyncio.open_unix_connection(address)
            writer.write(PREFACE + frame(SETTINGS, 0, 0, WINDOW_OF.pack(4, 0)))
            for number in range(1, 81, 2):
                writer.write(frame(HEADERS, 4, number, large_block) + frame(DATA, 1, number, b"\0\0\0\0\0"))
            for count in (3, 5):
                while made < count:  # noqa: ASYNC110 (the handler runs when it may)
                    await asyncio.sleep(0.01)
                for _ in range(2):
                    assert len((await other.unary("/t.T/Large", Bytes(), Bytes)).data) == 15 << 20
                assert made == count + 2
                made -= 2
                # Two are given up, so two more begin.
                for number in (2 * count - 5, 2 * count - 3):
                    writer.write(frame(RST_STREAM, 0, number, b"\0\0\0\x08"))
            writer.close()
            other.close()

    run(work())


def test_a_client_is_not_shut_out_by_its_own_large_metadata() -> None:
    """What a session says of itself is kept as long as the session, and is far from the limit."""
    end = End(client=False)
    raw = Raw(end)
    names = b"".join(b"\0\x04name" + bytes((100,)) + b"n" * 100 for _ in range(2000))
    raw.frame(HEADERS, 4, 1, BLOCK + names)
    assert len(end.sinks[0].headers[0]) == 2004
    assert end.connection.held < MAX_HELD // 10
