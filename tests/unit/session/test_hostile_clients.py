"""Clients that answer a build's questions with harm in mind: what they make the daemon keep is bounded."""

from __future__ import annotations

import asyncio
import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from anyarch.api.proto import content_pb2, ssh_pb2
from anyarch.api.rpc.server import Server, unary
from anyarch.api.rpc.socket import connect_unix, on_accept
from anyarch.api.rpc.status import RpcError
from anyarch.api.rpc.tunnel import Tunnel, data_message
from anyarch.archive.entry import Entry, Kind
from anyarch.errors import ProtocolError
from anyarch.session import filesync as filesync_module
from anyarch.session import receiver as receiver_module
from anyarch.session.blobs import SessionBlobs
from anyarch.session.borrowed import SessionLent
from anyarch.session.filesync import ContextReceiver
from anyarch.session.lender import Sessions, WireCalls
from anyarch.session.packet import STAT, encode_packet, encode_stat

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

    from anyarch.api.rpc.server import Handler, ServerCall
    from anyarch.api.rpc.socket import SocketLink

MIB = 1 << 20


@asynccontextmanager
async def session(path: Path, methods: Mapping[str, Handler]) -> AsyncIterator[Sessions]:
    """The daemon's end of the session `s` of a client that serves `methods`."""
    sessions = Sessions()
    address = str(path / "d.sock")
    links: set[SocketLink] = set()
    async with Server({"/Session": sessions.serve}) as server, Server(methods) as client:
        listening = await asyncio.get_running_loop().create_unix_server(on_accept(server, links), address)
        channel = await connect_unix(address)
        metadata = [("x-docker-expose-session-uuid", "s")]
        metadata += [("x-docker-expose-session-grpc-method", name) for name in methods]
        call = channel.start("/Session", metadata=metadata)
        Tunnel(call, client=False, server=client)
        try:
            yield sessions
        finally:
            call.cancel()
            channel.close()
            listening.close()
            for link in list(links):
                link.close()


def run(work: Any) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(60):
            await work

    asyncio.run(bounded())


def test_a_blob_with_a_hole_of_a_terabyte_takes_no_room(tmp_path: Path) -> None:
    async def read(call: ServerCall) -> None:
        await call.send(content_pb2.ReadContentResponse(offset=0, data=b"beginning"))
        await call.send(content_pb2.ReadContentResponse(offset=1 << 40, data=b"end"))

    async def work() -> None:
        async with session(tmp_path, {"/containerd.services.content.v1.Content/Read": read}) as sessions:
            blobs = SessionBlobs(sessions, WireCalls(asyncio.get_running_loop()), ["s"])
            with pytest.raises(RpcError, match="does not come in order"):
                await asyncio.to_thread(blobs.open, "", "layout", f"sha256:{'0' * 64}")

    run(work())


def test_an_agent_that_answers_without_end_is_cut_off(tmp_path: Path) -> None:
    async def check(request: ssh_pb2.CheckAgentRequest, call: ServerCall) -> ssh_pb2.CheckAgentResponse:
        return ssh_pb2.CheckAgentResponse()

    cut_off = asyncio.Event()

    async def forward(call: ServerCall) -> None:
        try:
            while True:
                await call.send(data_message(b"x" * (64 << 10)))
        finally:
            cut_off.set()

    service = "/moby.sshforward.v1.SSH/"
    methods: dict[str, Handler] = {
        service + "CheckAgent": unary(ssh_pb2.CheckAgentRequest, check),
        service + "ForwardAgent": forward,
    }

    async def work() -> None:
        async with session(tmp_path, methods) as sessions:
            lent = SessionLent(sessions, WireCalls(asyncio.get_running_loop()), ["s"])
            paths = await asyncio.to_thread(lent.ssh_paths, "default")
            assert paths is not None
            # A step that asks and never reads.
            reader, writer = await asyncio.open_unix_connection(paths[0], limit=1)
            reader._transport.pause_reading()  # type: ignore[attr-defined]
            await cut_off.wait()
            writer.close()
            await lent.close()

    run(work())


def test_attributes_of_files_are_kept_up_to_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filesync_module, "MOST_KEPT", 10 * MIB)
    receiver = ContextReceiver(str(tmp_path), lambda packet: None)
    attributes = (("user.x", os.urandom(MIB)),)
    try:
        with pytest.raises(ProtocolError, match="attributes of all files are too large"):
            for number in range(11):
                entry = Entry(f"{number:02}", Kind.FILE, 0o644, mtime_ns=1, size=1, xattrs=attributes)
                receiver.feed(encode_packet(STAT, stat=encode_stat(entry)))
        assert len(receiver.attributes) == 10
    finally:
        receiver.close()


def test_a_list_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receiver_module, "MOST_ENTRIES", 1000)
    receiver = ContextReceiver(str(tmp_path), lambda packet: None)
    try:
        with pytest.raises(ProtocolError, match="lists more than 1000 files"):
            for number in range(1001):
                entry = Entry(f"{number:04}", Kind.SYMLINK, 0o777, mtime_ns=1, linkname="x")
                receiver.feed(encode_packet(STAT, stat=encode_stat(entry)))
        assert len(os.listdir(tmp_path)) == 1000
    finally:
        receiver.close()
