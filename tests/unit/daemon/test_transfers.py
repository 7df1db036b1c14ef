"""Transfers of contexts to a daemon, as progress shows them, and what is left of those that end early."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from anyarch.api.proto import control_pb2, gateway_pb2, llb_pb2
from anyarch.api.rpc.status import RpcError
from anyarch.llb import source
from anyarch.llb.ops import ActionCopy
from anyarch.llb.state import CopySource, State
from anyarch.session.offer.files import directory_methods
from tests.unit.daemon.harness import Client, ask, daemon, names_in, run, solve, statuses, tree

if TYPE_CHECKING:
    from pathlib import Path

    from anyarch.api.rpc.client import Channel
    from anyarch.api.rpc.server import ServerCall

OPTIONS: dict[str, Any] = {"Frontend": "dockerfile.v0"}


def seconds(time: Any) -> float:
    return float(time.seconds) + float(time.nanos) / 1e9


def open_below(directory: Path) -> list[str]:
    found = []
    for name in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):
            found.append(os.readlink(f"/proc/self/fd/{name}"))
    return [path for path in found if path.startswith(str(directory))]


def last_vertex(messages: list[control_pb2.StatusResponse], name: str) -> control_pb2.Vertex:
    return [v for message in messages for v in message.vertexes if v.name == name][-1]


def test_a_vertex_lasts_as_long_as_its_transfer(tmp_path: Path) -> None:
    async def work() -> None:
        context = tree(tmp_path / "c", Dockerfile="FROM scratch\nCOPY one /\n", one="1")
        client = Client(context=context, dockerfile=context)

        async def slowly(call: ServerCall) -> None:
            (serve,) = directory_methods({"context": str(context), "dockerfile": str(context)}).values()
            await asyncio.sleep(0.3)
            await serve(call)

        client.more["/moby.filesync.v1.FileSync/DiffCopy"] = slowly
        async with daemon(tmp_path) as channel, client.serving(channel):
            for ref in ("first", "cached"):
                following = asyncio.ensure_future(statuses(channel, ref))
                await solve(channel, client, ref, **OPTIONS)
                messages = await following
                vertex = last_vertex(messages, "[internal] load build context")
                transfers = [
                    status
                    for message in messages
                    for status in message.statuses
                    if status.vertex == vertex.digest
                ]
                done = transfers[-1]
                assert done.ID == "transferring context:"
                unchanged = [status for status in transfers if status.ID == "unchanged context:"]
                assert [status.current for status in unchanged] == ([1] if ref == "cached" else [])
                assert all(status.name == "transferring" for status in transfers)
                assert done.current > 0
                assert not vertex.cached
                assert seconds(vertex.started) <= seconds(done.started)
                assert seconds(done.completed) <= seconds(vertex.completed)
                assert seconds(done.completed) - seconds(done.started) >= 0.3
                begun = next(
                    n
                    for n, message in enumerate(messages)
                    if any(v.digest == vertex.digest and v.HasField("started") for v in message.vertexes)
                )
                told = next(
                    n
                    for n, message in enumerate(messages)
                    if any(status.vertex == vertex.digest for status in message.statuses)
                )
                assert begun <= told
            copied = last_vertex(messages, "[1/1] COPY one /")
            assert copied.cached

    run(work())


def test_a_client_that_goes_in_the_middle_of_a_transfer_leaves_nothing_open(tmp_path: Path) -> None:
    async def work() -> None:
        context = tree(tmp_path / "c", Dockerfile="FROM scratch\nCOPY . /\n")
        (context / "large").write_bytes(os.urandom(8 << 20))
        (context / "last").write_text("last")
        client = Client(context=context, dockerfile=context)
        sent = asyncio.Event()

        async def stalls(call: ServerCall) -> None:
            (serve,) = directory_methods({"context": str(context), "dockerfile": str(context)}).values()
            send = call.send

            async def some(message: bytes) -> None:
                await send(message)
                if call.metadata.get("dir-name") == "context" and len(message) > 1 << 14:
                    sent.set()
                    await asyncio.Event().wait()

            call.send = some  # type: ignore[method-assign,assignment]
            await serve(call)

        async with daemon(tmp_path) as channel:
            client.more["/moby.filesync.v1.FileSync/DiffCopy"] = stalls
            async with client.serving(channel):
                building = asyncio.ensure_future(solve(channel, client, "gone", **OPTIONS))
                await sent.wait()
            (failure,) = await asyncio.gather(building, return_exceptions=True)
            assert "context" in str(failure)
            for _ in range(1000):
                if not open_below(tmp_path / "root" / "transfers"):
                    break
                await asyncio.sleep(0.02)
            assert not open_below(tmp_path / "root" / "transfers")
            # What had come serves the next build, which is whole.
            again = Client(context=context, dockerfile=context)
            async with again.serving(channel):
                await solve(channel, again, "again", **OPTIONS)

    run(work())


def local(unique: str) -> llb_pb2.Definition:
    copy = CopySource(source.local("context", unique=unique), ActionCopy("/one", "/copied"))
    state = State().file(copy)
    return llb_pb2.Definition.FromString(state.marshal().marshal())


def test_a_graph_of_a_build_that_runs_brings_its_files_to_a_client_that_offers_none(tmp_path: Path) -> None:
    async def work() -> None:
        owner = Client(context=tree(tmp_path / "c", one="1"))
        guest = Client()
        methods = guest.methods()
        del methods["/moby.filesync.v1.FileSync/DiffCopy"]
        guest.methods = lambda: methods  # type: ignore[method-assign]
        output = [control_pb2.Exporter(Type="tar")]
        unique = "k" * 25
        async with daemon(tmp_path) as channel, guest.serving(channel):
            async with owner.serving(channel):
                leading = asyncio.ensure_future(solve(channel, owner, "leads"))
                for name in (unique, "guessed"):
                    request = gateway_pb2.SolveRequest(
                        Definition=local(name), allowResultReturn=True, Evaluate=True
                    )
                    await ask(channel, "leads", "Solve", request, gateway_pb2.SolveResponse)
                await solve(channel, guest, "has it", Definition=local(unique), Exporters=output)
                assert names_in(guest.archives["0"]) == ["copied"]
                for ref, other in (("has not", "x" * 25), ("guesses", "guessed")):
                    with pytest.raises(RpcError, match="no local sources enabled"):
                        await solve(channel, guest, ref, Definition=local(other), Exporters=output)
                leading.cancel()
                await asyncio.wait([leading])
            await until_ended(channel, "leads")
            with pytest.raises(RpcError, match="no local sources enabled"):
                await solve(channel, guest, "too late", Definition=local(unique), Exporters=output)

    run(work())


async def until_ended(channel: Channel, ref: str) -> None:
    """Until the daemon knows no build of that name that runs."""
    while True:
        try:
            await ask(channel, ref, "Ping", gateway_pb2.PingRequest(), gateway_pb2.PongResponse)
        except RpcError:
            return
        await asyncio.sleep(0.02)
