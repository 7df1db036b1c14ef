"""Clients that stop taking part: they cost the daemon little, themselves a build, and others nothing."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

import pytest

from anyarch.api.proto import control_pb2, gateway_pb2
from anyarch.api.rpc.socket import connect_unix
from anyarch.api.rpc.status import Code, RpcError
from anyarch.daemon.history import History
from tests.unit.daemon.harness import CONTROL, Client, ask, daemon, give_back, run, solve, statuses, tree

if TYPE_CHECKING:
    from pathlib import Path

    from anyarch.api.rpc.client import Channel

DOCKERFILE = "FROM scratch\nCOPY Dockerfile /\n"
PART = 512 << 10


def memory() -> int:
    with open(f"/proc/{os.getpid()}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def leads(channel: Channel, ref: str) -> asyncio.Task[control_pb2.SolveResponse]:
    """A build that its client leads."""
    request = control_pb2.SolveRequest(Ref=ref)
    task = asyncio.ensure_future(channel.unary(CONTROL + "Solve", request, control_pb2.SolveResponse))
    await ask(channel, ref, "Ping", gateway_pb2.PingRequest(), gateway_pb2.PongResponse)
    return task


async def warn(channel: Channel, ref: str, text: bytes) -> None:
    await ask(channel, ref, "Warn", gateway_pb2.WarnRequest(short=text), gateway_pb2.WarnResponse)


async def end(channel: Channel, ref: str) -> None:
    await give_back(channel, ref, result=gateway_pb2.Result(ref=gateway_pb2.Ref()))


async def builds(path: Path, channel: Channel) -> None:
    """Another client's build."""
    client = Client(context=path, dockerfile=path)
    async with client.serving(channel):
        await solve(channel, client, f"other-{client.session}", Frontend="dockerfile.v0")


def test_progress_that_nobody_reads_holds_up_no_build_and_is_kept_once(tmp_path: Path) -> None:
    context = tree(tmp_path / "c", Dockerfile=DOCKERFILE)

    async def work() -> None:
        async with daemon(tmp_path) as channel:
            deaf = await connect_unix(str(tmp_path / "d.sock"))
            building = await leads(channel, "job")
            calls = []
            for _ in range(20):
                call = deaf.start(CONTROL + "Status")
                await call.send(control_pb2.StatusRequest(Ref="job"))
                call.end()
                await call.wait_headers()
                calls.append(call)
            await warn(channel, "job", b"the first")
            before = memory()
            for number in range(24):
                await warn(channel, "job", str(number).encode() + b"x" * PART)
            await builds(context, channel)
            assert not building.done()
            await end(channel, "job")
            async with asyncio.timeout(30):
                await building
            # It is there once, and what is on its way to each of them, here and there: not all 20 times.
            assert memory() - before < 250 << 20
            other = await connect_unix(str(tmp_path / "d.sock"))
            told = [warning for message in await statuses(other, "job") for warning in message.warnings]
            assert len(told) == 25
            await builds(context, channel)
            other.close()
            for call in calls:
                call.cancel()
            deaf.close()

    run(work())


def test_a_listener_that_reads_no_events_of_the_history_is_let_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anyarch.daemon.history._MOST_UNREAD", 4)

    async def work() -> None:
        history = History(tmp_path)
        listening = history.listen(control_pb2.BuildHistoryRequest())
        first = asyncio.ensure_future(anext(listening))
        await history._records()
        await asyncio.sleep(0.05)
        assert history._listeners
        events = [control_pb2.BuildHistoryEvent(record={"Ref": str(number)}) for number in range(9)]
        for event in events:
            history._tell(event)
        seen = [await first]
        with pytest.raises(RpcError) as caught:
            seen += [event async for event in listening]
        assert caught.value.code == Code.RESOURCE_EXHAUSTED
        assert [event.record.Ref for event in seen] == ["0"]  # and then the refusal

    run(work())


def test_warnings_without_end_are_refused(tmp_path: Path) -> None:
    async def work() -> None:
        async with daemon(tmp_path) as channel:
            building = await leads(channel, "job")
            with pytest.raises(RpcError) as caught:
                for _ in range(40):
                    await warn(channel, "job", b"x" * PART)
            assert caught.value.code == Code.RESOURCE_EXHAUSTED
            await end(channel, "job")
            await building

    run(work())


def test_a_session_that_never_answers_ends_its_own_build_only(tmp_path: Path) -> None:
    context = tree(tmp_path / "c", Dockerfile=DOCKERFILE)

    async def work() -> None:
        async with daemon(tmp_path) as channel:
            metadata = [
                ("x-docker-expose-session-uuid", "mute"),
                ("x-docker-expose-session-grpc-method", "/moby.filesync.v1.FileSync/DiffCopy"),
                ("x-buildkit-session-health-custom-timeout", "1000"),
            ]
            mute = channel.start(CONTROL + "Session", metadata=metadata)
            await mute.wait_headers()
            request = control_pb2.SolveRequest(Ref="mute", Session="mute", Frontend="dockerfile.v0")
            building = asyncio.ensure_future(
                channel.unary(CONTROL + "Solve", request, control_pb2.SolveResponse)
            )
            await builds(context, channel)
            async with asyncio.timeout(30):
                with pytest.raises(RpcError) as caught:
                    await building
            assert caught.value.message
            assert caught.value.code in (Code.UNKNOWN, Code.UNAVAILABLE, Code.CANCELLED)
            mute.cancel()
            await builds(context, channel)

    run(work())


def test_a_session_that_goes_while_a_file_is_asked_of_it_ends_its_build(tmp_path: Path) -> None:
    async def work() -> None:
        async with daemon(tmp_path) as channel:
            client = Client()
            asked = asyncio.Event()

            async def never(call: object) -> None:
                asked.set()
                await asyncio.sleep(600)

            client.more["/moby.filesync.v1.FileSync/DiffCopy"] = never
            async with client.serving(channel):
                building = asyncio.ensure_future(solve(channel, client, "job", Frontend="dockerfile.v0"))
                await asked.wait()
            async with asyncio.timeout(30):
                with pytest.raises(RpcError):
                    await building

    run(work())
