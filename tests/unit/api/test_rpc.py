"""Calls, with grpcio as an independent client and server."""

from __future__ import annotations

import asyncio
import gzip
import os
import random
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from anyarch.api.proto import control_pb2
from anyarch.api.rpc.client import Channel
from anyarch.api.rpc.messages import MessageStream
from anyarch.api.rpc.pipe import pipe_link
from anyarch.api.rpc.server import Server, unary
from anyarch.api.rpc.socket import connect_unix, on_accept
from anyarch.api.rpc.status import Code, RpcError, decode_message, encode_message, parse_timeout
from anyarch.api.rpc.tunnel import Tunnel, data_message, message_data
from anyarch.errors import BuildError, Canceled

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine, Mapping
    from pathlib import Path

    from anyarch.api.rpc.server import Handler, ServerCall
    from anyarch.api.rpc.socket import SocketLink

Bytes = control_pb2.BytesMessage


def run(work: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(60):
            await work

    asyncio.run(bounded())


@asynccontextmanager
async def serving(path: Path, methods: Mapping[str, Handler], **options: Any) -> AsyncIterator[str]:
    """A server on a unix socket."""
    address = str(path / "s")
    links: set[SocketLink] = set()
    async with Server(methods, **options) as server:
        listening = await asyncio.get_running_loop().create_unix_server(on_accept(server, links), address)
        try:
            yield address
        finally:
            listening.close()
            for link in list(links):
                link.close()


async def double(request: Bytes, call: ServerCall) -> Bytes:
    return Bytes(data=request.data * 2)


async def echo(call: ServerCall) -> None:
    async for message in call.messages(Bytes):
        await call.send(message)


async def metadata_of(request: Bytes, call: ServerCall) -> Bytes:
    return Bytes(data="|".join(call.metadata.all("x-list")).encode())


async def failing(request: Bytes, call: ServerCall) -> Bytes:
    raise RpcError(Code.ALREADY_EXISTS, "déjà vu: 100 %\n", details=b"\x08\x06")


def build_error(request: Bytes, call: ServerCall) -> Any:
    raise BuildError("no such file")


METHODS: dict[str, Handler] = {
    "/t.T/Double": unary(Bytes, double),
    "/t.T/Echo": echo,
    "/t.T/Metadata": unary(Bytes, metadata_of),
    "/t.T/Fail": unary(Bytes, failing),
    "/t.T/Build": unary(Bytes, build_error),
}

SERIAL = {"request_serializer": Bytes.SerializeToString, "response_deserializer": Bytes.FromString}


def test_grpcio_calls_a_unary_method(tmp_path: Path) -> None:
    async def work() -> None:
        async with (
            serving(tmp_path, METHODS) as address,
            grpc.aio.insecure_channel(f"unix:{address}") as channel,
        ):
            answer = await channel.unary_unary("/t.T/Double", **SERIAL)(Bytes(data=b"ab"))
            assert answer.data == b"abab"

    run(work())


def test_grpcio_streams_large_messages_there_and_back(tmp_path: Path) -> None:
    async def work() -> None:
        async with (
            serving(tmp_path, METHODS) as address,
            grpc.aio.insecure_channel(f"unix:{address}") as channel,
        ):
            sizes = [0, 1, 16379, 16384, 100_000, 3_500_000, 7]
            bodies = [random.Random(size).randbytes(size) for size in sizes]
            call = channel.stream_stream("/t.T/Echo", **SERIAL)(Bytes(data=body) for body in bodies)
            assert [message.data async for message in call] == bodies

    run(work())


def test_grpcio_sees_the_code_the_text_and_the_details(tmp_path: Path) -> None:
    async def work() -> None:
        async with (
            serving(tmp_path, METHODS) as address,
            grpc.aio.insecure_channel(f"unix:{address}") as channel,
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await channel.unary_unary("/t.T/Fail", **SERIAL)(Bytes())
            assert caught.value.code() == grpc.StatusCode.ALREADY_EXISTS
            assert caught.value.details() == "déjà vu: 100 %\n"
            assert dict(caught.value.trailing_metadata() or ()) == {"grpc-status-details-bin": b"\x08\x06"}

    run(work())


@pytest.mark.parametrize(
    ("method", "code", "text"),
    [
        ("/t.T/Nothing", grpc.StatusCode.UNIMPLEMENTED, "unknown method Nothing for service t.T"),
        ("/u.U/Nothing", grpc.StatusCode.UNIMPLEMENTED, "unknown service u.U"),
        ("/t.T/Build", grpc.StatusCode.UNKNOWN, "no such file"),
    ],
)
def test_what_cannot_be_answered_has_a_status(
    tmp_path: Path, method: str, code: grpc.StatusCode, text: str
) -> None:
    async def work() -> None:
        async with (
            serving(tmp_path, METHODS) as address,
            grpc.aio.insecure_channel(f"unix:{address}") as channel,
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await channel.unary_unary(method, **SERIAL)(Bytes())
            assert (caught.value.code(), caught.value.details()) == (code, text)

    run(work())


def test_metadata_may_repeat_a_key(tmp_path: Path) -> None:
    async def work() -> None:
        async with (
            serving(tmp_path, METHODS) as address,
            grpc.aio.insecure_channel(f"unix:{address}") as channel,
        ):
            pairs = [("x-list", "one"), ("x-list", "two"), ("y", "three")]
            answer = await channel.unary_unary("/t.T/Metadata", **SERIAL)(Bytes(), metadata=pairs)
            assert answer.data == b"one|two"

    run(work())


def test_a_handler_hears_that_the_client_gave_up(tmp_path: Path) -> None:
    async def work() -> None:
        cancelled = asyncio.Event()

        async def hang(call: ServerCall) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()

        async with (
            serving(tmp_path, {"/t.T/Hang": hang}) as address,
            grpc.aio.insecure_channel(f"unix:{address}") as channel,
        ):
            call = channel.unary_unary("/t.T/Hang", **SERIAL)(Bytes())
            await asyncio.sleep(0.05)
            call.cancel()
            await cancelled.wait()

    run(work())


def test_a_deadline_of_the_client_ends_the_handler(tmp_path: Path) -> None:
    async def work() -> None:
        async def hang(call: ServerCall) -> None:
            await asyncio.Event().wait()

        async with serving(tmp_path, {"/t.T/Hang": hang}) as address:
            channel = await connect_unix(address)
            call = channel.start("/t.T/Hang", timeout=0.05)
            with pytest.raises(RpcError) as caught:
                await call.recv()
            assert caught.value.code == Code.DEADLINE_EXCEEDED
            with pytest.raises(RpcError) as caught:
                await channel.unary("/t.T/Hang", Bytes(), Bytes, timeout=0.05)
            assert caught.value.code == Code.DEADLINE_EXCEEDED
            channel.close()

    run(work())


def test_a_message_over_the_limit_ends_the_call_only(tmp_path: Path) -> None:
    async def work() -> None:
        async with serving(tmp_path, METHODS, max_message=1000) as address:
            channel = await connect_unix(address)
            with pytest.raises(RpcError) as caught:
                await channel.unary("/t.T/Double", Bytes(data=b"x" * 2000), Bytes)
            assert caught.value.code == Code.RESOURCE_EXHAUSTED
            assert (await channel.unary("/t.T/Double", Bytes(data=b"y"), Bytes)).data == b"yy"
            channel.close()

    run(work())


def test_a_faulty_handler_is_an_internal_error_and_is_told(tmp_path: Path) -> None:
    async def work() -> None:
        told: list[str] = []

        async def broken(call: ServerCall) -> None:
            raise KeyError("oops")

        async with serving(tmp_path, {"/t.T/Broken": broken}, on_fault=told.append) as address:
            channel = await connect_unix(address)
            with pytest.raises(RpcError) as caught:
                await channel.unary("/t.T/Broken", Bytes(), Bytes)
            assert caught.value.code == Code.INTERNAL
            assert "oops" in told[0]
            channel.close()

    run(work())


def test_compressed_messages_are_inflated_within_the_limit(tmp_path: Path) -> None:
    async def work() -> None:
        async with serving(tmp_path, METHODS, max_message=100_000) as address:
            channel = await connect_unix(address)
            for size, code in ((1000, 0), (500_000, Code.RESOURCE_EXHAUSTED)):
                call = channel.start("/t.T/Echo", metadata=[("grpc-encoding", "gzip")])
                packed = gzip.compress(Bytes(data=b"z" * size).SerializeToString())
                call.stream.send(b"\1" + len(packed).to_bytes(4, "big") + packed)
                call.end()
                if code:
                    with pytest.raises(RpcError) as caught:
                        await call.receive(Bytes)
                    assert caught.value.code == code
                else:
                    answer = await call.receive(Bytes)
                    assert answer is not None
                    assert answer.data == b"z" * size
            channel.close()

    run(work())


@asynccontextmanager
async def grpcio_server(path: Path, methods: Mapping[str, Any]) -> AsyncIterator[str]:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("t.T", dict(methods))])
    server.add_insecure_port(f"unix:{path / 'g'}")
    await server.start()
    try:
        yield str(path / "g")
    finally:
        await server.stop(None)


def test_our_client_calls_grpcio(tmp_path: Path) -> None:
    async def work() -> None:
        async def answer(request: Bytes, context: Any) -> Bytes:
            if request.data == b"fail":
                await context.abort(grpc.StatusCode.NOT_FOUND, "näh")
            return Bytes(data=request.data * 2)

        async def stream(requests: AsyncIterator[Bytes], context: Any) -> AsyncIterator[Bytes]:
            async for request in requests:
                yield request

        coding = {"request_deserializer": Bytes.FromString, "response_serializer": Bytes.SerializeToString}
        methods = {
            "Double": grpc.unary_unary_rpc_method_handler(answer, **coding),
            "Echo": grpc.stream_stream_rpc_method_handler(stream, **coding),
        }
        async with grpcio_server(tmp_path, methods) as address:
            channel = await connect_unix(address)
            assert (await channel.unary("/t.T/Double", Bytes(data=b"ab"), Bytes)).data == b"abab"
            with pytest.raises(RpcError) as caught:
                await channel.unary("/t.T/Double", Bytes(data=b"fail"), Bytes)
            assert (caught.value.code, caught.value.message) == (Code.NOT_FOUND, "näh")
            with pytest.raises(RpcError) as caught:
                await channel.unary("/t.T/Missing", Bytes(), Bytes)
            assert caught.value.code == Code.UNIMPLEMENTED
            call = channel.start("/t.T/Echo")
            bodies = [os.urandom(size) for size in (0, 5, 300_000, 3_000_000)]
            async with asyncio.TaskGroup() as group:

                async def send() -> None:
                    for body in bodies:
                        await call.send(Bytes(data=body))
                    call.end()

                group.create_task(send())
                assert [message.data async for message in call.messages(Bytes)] == bodies
            channel.close()

    run(work())


def test_calls_fail_when_the_connection_is_lost(tmp_path: Path) -> None:
    async def work() -> None:
        async def hang(call: ServerCall) -> None:
            await asyncio.Event().wait()

        async with serving(tmp_path, {"/t.T/Hang": hang}) as address:
            channel = await connect_unix(address)
            call = channel.start("/t.T/Hang")
            await asyncio.sleep(0.05)
        with pytest.raises(RpcError) as caught:
            await call.recv()
        assert caught.value.code in (Code.UNAVAILABLE, Code.CANCELLED)
        with pytest.raises(RpcError) as caught:
            while True:
                await channel.unary("/t.T/Hang", Bytes(), Bytes, timeout=5)
        assert caught.value.code in (Code.UNAVAILABLE, Code.CANCELLED)

    run(work())


def test_a_slow_reader_holds_the_sender_back(tmp_path: Path) -> None:
    async def work() -> None:
        sent = 0
        handler_waits = asyncio.Event()

        async def flood(call: ServerCall) -> None:
            nonlocal sent
            while True:
                await call.send(Bytes(data=b"x" * 1_000_000))
                sent += 1
                handler_waits.set()

        async with serving(tmp_path, {"/t.T/Flood": flood}) as address:
            channel = await connect_unix(address)
            call = channel.start("/t.T/Flood")
            assert await call.recv()
            for _ in range(20):
                handler_waits.clear()
                await asyncio.sleep(0.01)
            assert sent < 30  # windows, socket buffers and one message, not without end
            call.cancel()
            channel.close()

    run(work())


# byte streams other than sockets --------------------------------------------------------------------


def test_a_tunnel_inside_a_call_turns_the_roles(tmp_path: Path) -> None:
    async def work() -> None:
        body = random.Random(3).randbytes(9_000_000)
        got: list[bytes] = []

        async def session(call: ServerCall) -> None:
            call.send_headers()
            inner = Channel(Tunnel(call, client=True).link.connection)
            answer = await inner.unary("/t.T/Double", Bytes(data=b"ab"), Bytes)
            got.append(answer.data)
            stream = inner.start("/t.T/Echo")
            async with asyncio.TaskGroup() as group:

                async def send() -> None:
                    for start in range(0, len(body), 1_000_000):
                        await stream.send(Bytes(data=body[start : start + 1_000_000]))
                    stream.end()

                group.create_task(send())
                got.append(b"".join([message.data async for message in stream.messages(Bytes)]))
            inner.close()

        async with serving(tmp_path, {"/t.T/Session": session}) as address:
            channel = await connect_unix(address)
            call = channel.start("/t.T/Session")
            over = asyncio.Event()
            async with Server(METHODS) as inner_server:
                tunnel = Tunnel(call, client=False, server=inner_server)
                tunnel.link.lost_callbacks.append(over.set)
                await over.wait()
            assert got == [b"abab", body]
            channel.close()

    run(work())


def test_calls_over_a_pair_of_pipes() -> None:
    async def work() -> None:
        there, back = os.pipe(), os.pipe()
        async with (
            Server(METHODS) as server,
            pipe_link(os.fdopen(there[0], "rb"), os.fdopen(back[1], "wb"), client=False, server=server),
            pipe_link(os.fdopen(back[0], "rb"), os.fdopen(there[1], "wb"), client=True) as link,
        ):
            channel = Channel(link.connection)
            body = os.urandom(2_000_000)
            assert (await channel.unary("/t.T/Double", Bytes(data=body), Bytes)).data == body * 2

    run(work())


@pytest.mark.parametrize("size", [0, 1, 127, 128, 16384, 70_000])
def test_the_hand_made_message_of_bytes_is_protobufs(size: int) -> None:
    body = os.urandom(size)
    raw = Bytes(data=body).SerializeToString()
    assert data_message(body) == raw
    assert message_data(raw) == body


@pytest.mark.parametrize("text", ["", "plain", "100 %", "zwei\nZeilen", "äöü ☃"])
def test_messages_of_a_status_survive(text: str) -> None:
    coded = encode_message(text)
    assert coded.isascii()
    assert decode_message(coded) == text


@pytest.mark.parametrize(("text", "seconds"), [("1H", 3600.0), ("30S", 30.0), ("100m", 0.1), ("5u", 5e-6)])
def test_timeouts_are_read(text: str, seconds: float) -> None:
    assert parse_timeout(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "S", "1", "1s", "-1S", "123456789S", "1.5S"])
def test_a_malformed_timeout_is_an_error(text: str) -> None:
    with pytest.raises(RpcError):
        parse_timeout(text)


def test_cancellation_of_the_engine_is_the_status_cancelled(tmp_path: Path) -> None:
    async def work() -> None:
        async def canceled(call: ServerCall) -> None:
            raise Canceled("context canceled")

        async with serving(tmp_path, {"/t.T/C": canceled}) as address:
            channel = await connect_unix(address)
            with pytest.raises(RpcError) as caught:
                await channel.unary("/t.T/C", Bytes(), Bytes)
            assert caught.value.code == Code.CANCELLED
            channel.close()

    run(work())


def test_message_streams_leave_the_ends_to_client_and_server() -> None:
    stream = MessageStream()
    with pytest.raises(NotImplementedError):
        stream.end()
    with pytest.raises(NotImplementedError):
        stream.fail(RpcError(Code.INTERNAL, "x"))
