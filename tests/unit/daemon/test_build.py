"""Builds through the daemon, asked for by grpcio with a session that the test itself serves."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import os
import tarfile
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from anyarch.api.proto import (
    auth_pb2,
    content_pb2,
    control_pb2,
    gateway_pb2,
    health_pb2,
    llb_pb2,
    rpcstatus_pb2,
    secrets_pb2,
)
from anyarch.api.rpc.server import Server, unary
from anyarch.api.rpc.socket import connect_unix
from anyarch.api.rpc.status import Code, RpcError
from anyarch.api.rpc.tunnel import Tunnel, message_data
from anyarch.archive.apply import Unpacker
from anyarch.daemon.caps import llb_caps
from anyarch.daemon.listen import listen
from anyarch.daemon.main import serve
from anyarch.daemon.settings import Settings
from anyarch.llb.ops import ActionMkdir, ActionMkfile
from anyarch.llb.state import State
from anyarch.session.offer.files import directory_methods
from anyarch.session.receiver import TreeReceiver

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine
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


async def statuses(channel: Channel, ref: str) -> list[control_pb2.StatusResponse]:
    call = channel.start(CONTROL + "Status")
    await call.send(control_pb2.StatusRequest(Ref=ref))
    call.end()
    return [message async for message in call.messages(control_pb2.StatusResponse)]


def tree(path: Path, **files: str) -> Path:
    path.mkdir()
    for name, text in files.items():
        (path / name).write_text(text)
    return path


def names_in(archive: bytes) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return tar.getnames()


def test_a_dockerfile_is_built_and_its_files_are_sent_as_a_tar(tmp_path: Path) -> None:
    async def work() -> None:
        context = tree(tmp_path / "c", Dockerfile="FROM scratch\nCOPY one /one\n", one="1", two="2")
        client = Client(context=context, dockerfile=context)
        async with daemon(tmp_path) as channel, client.serving(channel):
            await solve(
                channel,
                client,
                Frontend="dockerfile.v0",
                Exporters=[control_pb2.Exporter(Type="tar")],
            )
            assert names_in(client.archives["0"]) == ["one"]
            told = await statuses(channel, "job")
            names = [
                vertex.name for message in told for vertex in message.vertexes if vertex.completed.seconds
            ]
            assert "[internal] load build definition from Dockerfile" in names
            assert "[1/1] COPY one /one" in names

    run(work())


def test_only_what_changed_is_transferred_the_next_time(tmp_path: Path) -> None:
    async def work() -> None:
        context = tree(tmp_path / "c", Dockerfile="FROM scratch\nCOPY . /\n", one="1", two="2", gone="3")
        (context / "sub").mkdir()
        (context / "sub" / "link").symlink_to("../one")
        client = Client(context=context, dockerfile=context)
        client.target = tree(tmp_path / "out")
        async with daemon(tmp_path) as channel, client.serving(channel):
            options = {"Frontend": "dockerfile.v0", "Exporters": [control_pb2.Exporter(Type="local")]}
            await solve(channel, client, "first", **options)
            assert (client.target / "sub" / "link").readlink().as_posix() == "../one"
            assert client.sent_files == 5  # the Dockerfile also by itself
            client.sent_files = 0
            (context / "gone").unlink()
            (context / "two").write_text("another")
            client.target = tree(tmp_path / "out2")
            await solve(channel, client, "second", **options)
            assert client.sent_files == 2  # `two`, and the Dockerfile that is always asked for
            assert sorted(path.name for path in client.target.iterdir()) == [
                "Dockerfile",
                "one",
                "sub",
                "two",
            ]
            assert (client.target / "two").read_text() == "another"

    run(work())


def test_a_failing_build_names_the_line_and_the_vertex(tmp_path: Path) -> None:
    async def work() -> None:
        context = tree(tmp_path / "c", Dockerfile="FROM scratch\nCOPY missing /\n")
        client = Client(context=context, dockerfile=context)
        async with daemon(tmp_path) as channel, client.serving(channel):
            with pytest.raises(RpcError) as caught:
                await solve(channel, client, Frontend="dockerfile.v0")
            assert '"/missing": not found' in caught.value.message
            status = rpcstatus_pb2.Status.FromString(caught.value.details)
            details = {item.type_url.rpartition("/")[2]: json.loads(item.value) for item in status.details}
            assert details["errdefs.Source+json"]["ranges"][0]["start"]["line"] == 2
            told = await statuses(channel, "job")
            failed = [v.digest for m in told for v in m.vertexes if v.error]
            assert details["errdefs.Vertex+json"]["digest"] in failed

    run(work())


def test_a_client_that_leads_the_build_solves_reads_and_returns(tmp_path: Path) -> None:
    async def work() -> None:
        client = Client()
        build_id = [("buildkit-controlapi-buildid", "led")]
        async with daemon(tmp_path) as channel, client.serving(channel), asyncio.TaskGroup() as group:
            building = group.create_task(
                solve(channel, client, "led", Exporters=[control_pb2.Exporter(Type="tar")])
            )

            async def ask(method: str, request: Any, reply: Any) -> Any:
                return await channel.unary(BRIDGE + method, request, reply, metadata=build_id)

            pong = await ask("Ping", gateway_pb2.PingRequest(), gateway_pb2.PongResponse)
            assert {"solve.base", "return"} <= {cap.ID for cap in pong.FrontendAPICaps}
            definition = (
                State().file(ActionMkdir("/d", 0o755), ActionMkfile("/d/f", 0o640, b"content")).marshal()
            )
            reply = await ask(
                "Solve",
                gateway_pb2.SolveRequest(
                    Definition=llb_pb2.Definition.FromString(definition.marshal()),
                    allowResultReturn=True,
                    allowResultArrayRef=True,
                ),
                gateway_pb2.SolveResponse,
            )
            ref = reply.result.ref
            assert [bytes(op) for op in getattr(ref, "def").__getattribute__("def")] == list(definition.ops)
            read = await ask(
                "ReadFile",
                gateway_pb2.ReadFileRequest(
                    Ref=ref.id, FilePath="/d/f", Range=gateway_pb2.FileRange(Offset=3, Length=2)
                ),
                gateway_pb2.ReadFileResponse,
            )
            assert read.Data == b"te"
            listed = await ask(
                "ReadDir", gateway_pb2.ReadDirRequest(Ref=ref.id, DirPath="/"), gateway_pb2.ReadDirResponse
            )
            assert [(e.path, e.mode) for e in listed.entries] == [("d", 1 << 31 | 0o755)]
            found = await ask(
                "StatFile", gateway_pb2.StatFileRequest(Ref=ref.id, Path="/d/f"), gateway_pb2.StatFileResponse
            )
            assert (found.stat.path, found.stat.mode, found.stat.size) == ("f", 0o640, 7)
            await ask("Evaluate", gateway_pb2.EvaluateRequest(Ref=ref.id), gateway_pb2.EvaluateResponse)
            with pytest.raises(RpcError) as caught:
                await ask(
                    "ReadFile",
                    gateway_pb2.ReadFileRequest(Ref=ref.id, FilePath="/none"),
                    gateway_pb2.ReadFileResponse,
                )
            assert caught.value.code == Code.NOT_FOUND
            await ask(
                "Warn",
                gateway_pb2.WarnRequest(digest="sha256:" + "0" * 64, short=b"beware"),
                gateway_pb2.WarnResponse,
            )
            await ask(
                "Return",
                gateway_pb2.ReturnRequest(
                    result=gateway_pb2.Result(ref=gateway_pb2.Ref(id=ref.id), metadata={"frontend.x": b"y"})
                ),
                gateway_pb2.ReturnResponse,
            )
            response = await building
            assert response.ExporterResponse["frontend.x"] == "y"
            assert names_in(client.archives["0"]) == ["d", "d/f"]
            told = await statuses(channel, "led")
            assert [w.short for m in told for w in m.warnings] == [b"beware"]

    run(work())


def test_an_error_that_the_client_returns_is_the_builds(tmp_path: Path) -> None:
    async def work() -> None:
        client = Client()
        async with daemon(tmp_path) as channel, client.serving(channel):
            building = asyncio.ensure_future(solve(channel, client, "led"))
            error = rpcstatus_pb2.Status(code=7, message="not like this")
            await channel.unary(
                BRIDGE + "Return",
                gateway_pb2.ReturnRequest(error=error),
                gateway_pb2.ReturnResponse,
                metadata=[("buildkit-controlapi-buildid", "led")],
            )
            with pytest.raises(RpcError) as caught:
                await building
            assert (caught.value.code, caught.value.message) == (7, "not like this")

    run(work())


def test_a_call_for_a_build_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    async def work() -> None:
        async with daemon(tmp_path) as channel:
            with pytest.raises(RpcError) as caught:
                await channel.unary(
                    BRIDGE + "Evaluate",
                    gateway_pb2.EvaluateRequest(Ref="x"),
                    gateway_pb2.EvaluateResponse,
                    metadata=[("buildkit-controlapi-buildid", "nobody")],
                )
            assert (caught.value.code, caught.value.message) == (Code.NOT_FOUND, "no such job nobody")

    run(work())


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"Frontend": "nonsense.v0"}, "invalid frontend: nonsense.v0"),
        (
            {
                "Definition": llb_pb2.Definition(),
                "Cache": control_pb2.CacheOptions(
                    Exports=[control_pb2.CacheOptionsEntry(Type="local", Attrs={"dest": "/nowhere"})]
                ),
            },
            "type=local are not supported",
        ),
        ({"Entitlements": ["security.insecure"]}, "granting entitlement security.insecure is not allowed"),
        (
            {"Frontend": "dockerfile.v0", "FrontendAttrs": {"attest:provenance": "mode=max"}},
            "attest:provenance=mode=max: attestations are not supported",
        ),
        ({"FrontendAttrs": {"attest:sbom": ""}}, "attest:sbom=: attestations are not supported"),
        (
            {"Frontend": "dockerfile.v0", "Exporters": [control_pb2.Exporter(Type="tar", Attrs={"x": "y"})]},
            "unknown attribute 'x'",
        ),
    ],
)
def test_what_cannot_be_done_is_refused(tmp_path: Path, fields: dict[str, Any], says: str) -> None:
    async def work() -> None:
        client = Client()
        async with daemon(tmp_path) as channel, client.serving(channel):
            with pytest.raises(RpcError) as caught:
                await solve(channel, client, **fields)
            assert says in caught.value.message

    run(work())


def test_attestations_are_not_announced() -> None:
    names = {cap.ID for cap in llb_caps()}
    assert "exporter.image.attestations" not in names
    assert {"history.filter", "exporter.multiple"} <= names


def test_a_build_is_cancelled_with_its_call_and_leaves_nothing(tmp_path: Path) -> None:
    async def work() -> None:
        client = Client()
        async with daemon(tmp_path) as channel, client.serving(channel):
            building = asyncio.ensure_future(solve(channel, client, "long"))
            await asyncio.sleep(0.2)
            building.cancel()
            await asyncio.gather(building, return_exceptions=True)
            assert await statuses(channel, "long") == []  # it ends: the log is closed

    run(work())


def test_an_image_goes_into_the_clients_content_store(tmp_path: Path) -> None:
    async def work() -> None:
        context = tree(tmp_path / "c", Dockerfile="FROM scratch\nCOPY one /\n", one="1")
        client = Client(context=context, dockerfile=context)
        exporters = [control_pb2.Exporter(Type="oci", Attrs={"tar": "false"})]
        async with daemon(tmp_path) as channel, client.serving(channel):
            answer = await solve(channel, client, Frontend="dockerfile.v0", Exporters=exporters)
            response = answer.ExporterResponse
            manifest = json.loads(client.blobs[response["containerimage.digest"]])
            named = [manifest["config"]["digest"], *(layer["digest"] for layer in manifest["layers"])]
            assert set(named) | {response["containerimage.digest"]} == client.blobs.keys()
            await solve(channel, client, "again", Frontend="dockerfile.v0", Exporters=exporters)

    run(work())


def test_a_graph_of_the_client_stands_in_for_an_image(tmp_path: Path) -> None:
    async def work() -> None:
        dockerfile = "FROM base\nCOPY --from=base /f /copied\n"
        context = tree(tmp_path / "c", Dockerfile=dockerfile)
        client = Client(context=context, dockerfile=context)
        graph = State().file(ActionMkfile("/f", 0o644, b"x")).marshal().marshal()
        async with daemon(tmp_path) as channel, client.serving(channel):
            await solve(
                channel,
                client,
                Frontend="dockerfile.v0",
                FrontendAttrs={"context:base": "input:given"},
                FrontendInputs={"given": llb_pb2.Definition.FromString(graph)},
                Exporters=[control_pb2.Exporter(Type="tar")],
            )
            assert names_in(client.archives["0"]) == ["copied", "f"]

    run(work())
