"""A daemon in the test's own process, and a client whose session the test serves."""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import sys
import tarfile
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from anyarch.api.proto import (
    auth_pb2,
    content_pb2,
    control_pb2,
    gateway_pb2,
    health_pb2,
    secrets_pb2,
)
from anyarch.api.rpc.server import Server, unary
from anyarch.api.rpc.socket import connect_unix
from anyarch.api.rpc.status import Code, RpcError
from anyarch.api.rpc.tunnel import Tunnel, message_data
from anyarch.archive.apply import Unpacker
from anyarch.daemon.listen import listen
from anyarch.daemon.main import serve
from anyarch.daemon.settings import Settings
from anyarch.session.offer.files import directory_methods
from anyarch.session.receiver import TreeReceiver

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine, Sequence
    from pathlib import Path

    from anyarch.api.rpc.client import Channel
    from anyarch.api.rpc.server import Handler, ServerCall

CONTROL = "/moby.buildkit.v1.Control/"
BRIDGE = "/moby.buildkit.v1.frontend.LLBBridge/"


def run(work: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(120):
            await work

    asyncio.run(bounded())


@asynccontextmanager
async def daemon(path: Path, **options: Any) -> AsyncIterator[Channel]:
    """A daemon in this process, and a channel to it."""
    address = str(path / "d.sock")
    settings = Settings(root=str(path / "root"), addresses=(f"unix://{address}",), **options)
    listeners = listen(settings)
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(serve(settings, listeners, stop))
        channel = await connect_unix(address)
        try:
            yield channel
        finally:
            channel.close()
            stop.set()
    for listener in listeners:
        listener.close()


class Client:
    """What a test offers in its session."""

    def __init__(self, **directories: Path) -> None:
        self.directories = directories
        self.secrets: dict[str, bytes] = {}
        self.archives: dict[str, bytes] = {}
        self.blobs: dict[str, bytes] = {}
        self.target: Path | None = None
        self.more: dict[str, Handler] = {}
        """Takes the place of what is served else."""
        self.takes_archives = True
        self.sent_files = 0
        self.session = os.urandom(8).hex()

    def methods(self) -> dict[str, Handler]:
        return {
            "/grpc.health.v1.Health/Check": unary(health_pb2.HealthCheckRequest, self._health),
            "/moby.filesync.v1.FileSync/DiffCopy": self._sync,
            "/moby.filesync.v1.FileSend/DiffCopy": self._receive,
            "/moby.buildkit.secrets.v1.Secrets/GetSecret": unary(secrets_pb2.GetSecretRequest, self._secret),
            "/containerd.services.content.v1.Content/Write": self._write,
            "/moby.filesync.v1.Auth/Credentials": unary(auth_pb2.CredentialsRequest, self._login),
            **self.more,
        }

    async def _health(self, request: Any, call: ServerCall) -> health_pb2.HealthCheckResponse:
        return health_pb2.HealthCheckResponse(status=1)

    async def _secret(self, request: Any, call: ServerCall) -> secrets_pb2.GetSecretResponse:
        if request.ID not in self.secrets:
            raise RpcError(Code.NOT_FOUND, f"secret {request.ID}: not found")
        return secrets_pb2.GetSecretResponse(data=self.secrets[request.ID])

    async def _login(self, request: Any, call: ServerCall) -> auth_pb2.CredentialsResponse:
        return auth_pb2.CredentialsResponse()

    async def _sync(self, call: ServerCall) -> None:
        send = call.send

        async def counted(message: bytes) -> None:
            self.sent_files += message[:2] == b"\x08\x02" and b"\x22" in message[:5]
            await send(message)

        call.send = counted  # type: ignore[method-assign]
        (serve,) = directory_methods({name: str(path) for name, path in self.directories.items()}).values()
        await serve(call)

    async def _write(self, call: ServerCall) -> None:
        assert call.metadata.get("buildkit-attachable-store-id") == "export"
        data = b""
        async for message in call.messages(content_pb2.WriteContentRequest):
            if message.expected in self.blobs:
                raise RpcError(Code.ALREADY_EXISTS, f"content {message.expected}: already exists")
            assert message.offset == len(data)
            data += message.data
            answer = content_pb2.WriteContentResponse(action=message.action, offset=len(data))
            if message.action == content_pb2.COMMIT:
                assert f"sha256:{hashlib.sha256(data).hexdigest()}" == message.expected
                self.blobs[message.expected] = data
            await call.send(answer)

    async def _receive(self, call: ServerCall) -> None:
        number = call.metadata.get("buildkit-attachable-exporter-id")
        if not self.takes_archives:
            raise RpcError(Code.ALREADY_EXISTS, "target already exists")
        if self.target is None:
            data = b""
            while (message := await call.recv()) is not None:
                data += message_data(message)
            self.archives[number] = data
            return
        with Unpacker(str(self.target), whiteouts="delete", chown=False, keep_root=True) as unpacker:
            receiver = TreeReceiver(unpacker)
            while not receiver.is_finished:
                message = await call.recv()
                assert message is not None
                for answer in receiver.feed(message):
                    await call.send(answer)
            unpacker.finish()

    @asynccontextmanager
    async def serving(self, channel: Channel) -> AsyncIterator[None]:
        metadata = [("x-docker-expose-session-uuid", self.session)]
        metadata += [("x-docker-expose-session-grpc-method", name) for name in self.methods()]
        async with Server(self.methods()) as server:
            call = channel.start(CONTROL + "Session", metadata=metadata)
            Tunnel(call, client=False, server=server)
            try:
                yield
            finally:
                call.cancel()


async def solve(
    channel: Channel, client: Client, ref: str = "job", **fields: Any
) -> control_pb2.SolveResponse:
    request = control_pb2.SolveRequest(Ref=ref, Session=client.session, **fields)
    return await channel.unary(CONTROL + "Solve", request, control_pb2.SolveResponse)


async def ask(channel: Channel, ref: str, method: str, request: Any, reply: Any) -> Any:
    """Call what a client has that leads the build `ref`."""
    metadata = [("buildkit-controlapi-buildid", ref)]
    return await channel.unary(BRIDGE + method, request, reply, metadata=metadata)


async def give_back(channel: Channel, ref: str, **fields: Any) -> None:
    """End a build that a client leads: with a `result`, or an `error`."""
    await ask(channel, ref, "Return", gateway_pb2.ReturnRequest(**fields), gateway_pb2.ReturnResponse)


async def statuses(channel: Channel, ref: str) -> list[control_pb2.StatusResponse]:
    call = channel.start(CONTROL + "Status")
    await call.send(control_pb2.StatusRequest(Ref=ref))
    call.end()
    return [message async for message in call.messages(control_pb2.StatusResponse)]


class Answer(NamedTuple):
    status: int
    out: str
    err: str


async def anyarch(home: Path, *argv: str, program: Sequence[str] = ("-m", "anyarch")) -> Answer:
    """Run the command line in a process of its own, for a user of that home with nothing set. The process is
    Python's, with the arguments `program`."""
    env = {key: value for key, value in os.environ.items() if not key.startswith(("BUILDX", "DOCKER"))}
    env |= {"HOME": str(home), "BUILDX_CONFIG": str(home / "buildx"), "ANYARCH_ROOT": str(home / "store")}
    pipe, none = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec(
        sys.executable, *program, *argv, env=env, cwd=home, stdin=none, stdout=pipe, stderr=pipe
    )
    out, said = await process.communicate()
    assert process.returncode is not None
    return Answer(process.returncode, out.decode(errors="replace"), said.decode())


def tree(path: Path, **files: str) -> Path:
    path.mkdir()
    for name, text in files.items():
        (path / name).write_text(text)
    return path


def names_in(archive: bytes) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return tar.getnames()
