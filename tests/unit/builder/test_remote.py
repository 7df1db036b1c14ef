"""What a client gives a daemon and takes from it, whoever the daemon is."""

from __future__ import annotations

import asyncio
import base64
import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from anyarch.api.proto import auth_pb2 as auth
from anyarch.api.proto import content_pb2 as content
from anyarch.api.proto import control_pb2 as control
from anyarch.api.proto import llb_pb2 as llb
from anyarch.api.proto import rpcstatus_pb2 as rpcstatus
from anyarch.api.proto import secrets_pb2 as secrets
from anyarch.api.proto import wellknown_pb2 as wellknown
from anyarch.api.rpc.status import Code, RpcError
from anyarch.api.rpc.tunnel import data_message
from anyarch.archive.entry import Entry, Kind
from anyarch.engine.request import BuildRequest, CacheOption, CancelToken, Output, Secret
from anyarch.errors import AnyarchError, BuilderError, BuildError, Canceled, OutputError, ProtocolError
from anyarch.session.packet import (
    DATA,
    FIN,
    REQ,
    STAT,
    decode_packet,
    decode_stat,
    encode_packet,
    encode_stat,
)
from anyarch.solver.events import LogEvent, VertexEvent, WarningEvent
from tests.unit.builder.fake_daemon import FakeDaemon, running

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from anyarch.api.rpc.client import Channel
    from anyarch.engine.request import BuildResult
    from anyarch.solver.events import Event

    Act = Callable[[FakeDaemon, control.SolveRequest], Awaitable[dict[str, str]]]

SYNC = "/moby.filesync.v1.FileSync/DiffCopy"
SEND = "/moby.filesync.v1.FileSend/DiffCopy"


async def nothing(_daemon: FakeDaemon, _request: control.SolveRequest) -> dict[str, str]:
    return {}


def build(
    tmp_path: Path,
    script: Act = nothing,
    *,
    prepare: Callable[[FakeDaemon], object] = lambda daemon: None,
    cancel: CancelToken | None = None,
    **request: Any,
) -> tuple[BuildResult, FakeDaemon, list[Event]]:
    context = tmp_path / "context"
    context.mkdir(exist_ok=True)
    (context / "Dockerfile").write_text("FROM scratch\n")
    events: list[Event] = []

    async def run() -> tuple[BuildResult, FakeDaemon]:
        daemon = FakeDaemon(script)
        prepare(daemon)
        async with running(daemon, tmp_path / "sock") as builder:
            return await builder.build(
                BuildRequest(context=str(context), **request), events.append, cancel
            ), daemon

    result, daemon = asyncio.run(run())
    return result, daemon, events


async def fetch(session: Channel, name: str, **metadata: str) -> dict[str, bytes | None]:
    """A directory as a daemon gets it: contents by path, None for what is no file."""
    call = session.start(
        SYNC, metadata=[("dir-name", name), *((k.replace("_", "-"), v) for k, v in metadata.items())]
    )
    entries = []
    while True:
        packet = decode_packet(await call.recv() or b"")
        assert packet.type == STAT
        if not packet.has_stat:
            break
        entries.append(decode_stat(packet.stat))
    found: dict[str, bytes | None] = {}
    for number, entry in enumerate(entries):
        if entry.kind is not Kind.FILE:
            found[entry.path] = None
            continue
        await call.send(encode_packet(REQ, number=number))
        parts = []
        while data := bytes(decode_packet(await call.recv() or b"").data):
            parts.append(data)
        found[entry.path] = b"".join(parts)
    await call.send(encode_packet(FIN))
    assert decode_packet(await call.recv() or b"").type == FIN
    assert await call.recv() is None
    call.end()
    return found


def test_daemon_gets_the_context_as_it_asks_for_it(tmp_path: Path) -> None:
    (tmp_path / "context" / "sub").mkdir(parents=True)
    (tmp_path / "context" / "sub" / "a").write_text("A")
    (tmp_path / "context" / "é").write_text("E")
    seen = {}

    async def script(daemon: FakeDaemon, request: control.SolveRequest) -> dict[str, str]:
        session = await daemon.session
        seen["all"] = await fetch(session, "context")
        seen["some"] = await fetch(session, "context", followpaths="sub/a")
        seen["excluded"] = await fetch(
            session, "context", exclude_patterns="%C3%A9", exclude_patterns_encoded="1"
        )
        seen["dockerfile"] = await fetch(session, "dockerfile", followpaths="Dockerfile")
        return {}

    _, daemon, _ = build(tmp_path, script)
    assert seen["all"] == {"Dockerfile": b"FROM scratch\n", "sub": None, "sub/a": b"A", "é": b"E"}
    assert seen["some"] == {"sub": None, "sub/a": b"A"}
    assert set(seen["excluded"]) == {"Dockerfile", "sub", "sub/a"}
    assert seen["dockerfile"] == {"Dockerfile": b"FROM scratch\n"}
    offered = [v for k, v in daemon.session_metadata if k == "x-docker-expose-session-grpc-method"]
    assert SYNC in offered
    assert "/grpc.health.v1.Health/Check" in offered
    [request] = daemon.requests
    assert dict(daemon.session_metadata)["x-docker-expose-session-uuid"] == request.Session
    assert request.Frontend == "dockerfile.v0"


async def refused(work: Awaitable[object]) -> int:
    with pytest.raises(RpcError) as caught:
        await work
    return caught.value.code


def test_daemon_gets_nothing_that_the_build_was_not_given(tmp_path: Path) -> None:
    (tmp_path / "private").write_text("private")
    codes = []

    async def script(daemon: FakeDaemon, request: control.SolveRequest) -> dict[str, str]:
        session = await daemon.session
        codes.extend([await refused(fetch(session, name)) for name in ("", "/etc", "..", "other")])
        for path in ("../private", "/../private", str(tmp_path / "private")):
            assert await fetch(session, "context", followpaths=path) == {}
        secret = secrets.GetSecretRequest(ID="HOME")
        path = "/moby.buildkit.secrets.v1.Secrets/GetSecret"
        codes.append(await refused(session.unary(path, secret, secrets.GetSecretResponse)))
        call = session.start("/containerd.services.content.v1.Content/Read")
        await call.send(content.ReadContentRequest(digest="sha256:../../../etc/passwd"))
        codes.append(await refused(call.recv()))
        codes.append(await refused(session.start(SEND).recv()))
        return {}

    build(tmp_path, script)
    assert codes == [Code.NOT_FOUND] * 5 + [Code.UNIMPLEMENTED] * 2


def test_secrets_and_credentials_that_were_lent_arrive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = {"auths": {"reg.example": {"auth": base64.b64encode(b"me:pw").decode()}}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    seen = {}

    async def script(daemon: FakeDaemon, request: control.SolveRequest) -> dict[str, str]:
        session = await daemon.session
        path = "/moby.buildkit.secrets.v1.Secrets/GetSecret"
        got = await session.unary(path, secrets.GetSecretRequest(ID="token"), secrets.GetSecretResponse)
        seen["secret"] = got.data
        for host in ("reg.example", "elsewhere.example"):
            answer = await session.unary(
                "/moby.filesync.v1.Auth/Credentials",
                auth.CredentialsRequest(Host=host),
                auth.CredentialsResponse,
            )
            seen[host] = (answer.Username, answer.Secret)
        return {}

    monkeypatch.setenv("TOKEN", "value")
    build(tmp_path, script, secrets=(Secret("token", env="TOKEN"),))
    assert seen == {"secret": b"value", "reg.example": ("me", "pw"), "elsewhere.example": ("", "")}


def test_file_output_is_complete_or_not_there(tmp_path: Path) -> None:
    target = tmp_path / "image.tar"

    async def script(daemon: FakeDaemon, request: control.SolveRequest) -> dict[str, str]:
        call = (await daemon.session).start(SEND, metadata=[("buildkit-attachable-exporter-id", "0")])
        await call.send(data_message(b"one"))
        await call.send(data_message(b"two"))
        if "fail" in request.FrontendAttrs["target"]:
            call.cancel()
            raise RpcError(Code.UNKNOWN, "it broke")
        call.end()
        assert await call.recv() is None
        return {"containerimage.digest": "sha256:" + "1" * 64}

    with pytest.raises(BuildError, match="it broke"):
        build(tmp_path, script, outputs=(Output("oci", str(target)),), target="fail")
    assert not target.exists()
    result, daemon, _ = build(tmp_path, script, outputs=(Output("oci", str(target)),), target="x")
    assert target.read_bytes() == b"onetwo"
    assert result.digest == "sha256:" + "1" * 64
    assert daemon.requests[0].Exporters[0].Type == "oci"
    assert sorted(p.name for p in tmp_path.iterdir() if "part" in p.name) == []


async def send_tree(daemon: FakeDaemon, *entries: Entry) -> None:
    call = (await daemon.session).start(SEND, metadata=[("buildkit-attachable-exporter-id", "0")])
    for entry in entries:
        await call.send(encode_packet(STAT, stat=encode_stat(entry)))
    await call.send(encode_packet(STAT))
    while (packet := decode_packet(await call.recv() or b"")).type == REQ:
        await call.send(encode_packet(DATA, number=packet.id, data=b"content"))
        await call.send(encode_packet(DATA, number=packet.id))
    assert packet.type == FIN
    await call.send(encode_packet(FIN))
    call.end()
    assert await call.recv() is None


def test_directory_output_stays_in_its_directory(tmp_path: Path) -> None:
    target = tmp_path / "out"

    async def good(daemon: FakeDaemon, request: control.SolveRequest) -> dict[str, str]:
        await send_tree(daemon, Entry("a", Kind.DIRECTORY, 0o755), Entry("a/f", Kind.FILE, 0o640))
        return {}

    build(tmp_path, good, outputs=(Output("local", str(target)),))
    assert (target / "a" / "f").read_bytes() == b"content"
    assert (target / "a" / "f").stat().st_mode & 0o777 == 0o640

    async def escape(daemon: FakeDaemon, request: control.SolveRequest) -> dict[str, str]:
        await send_tree(daemon, Entry("../escaped", Kind.FILE, 0o644))
        return {}

    async def by_link(daemon: FakeDaemon, request: control.SolveRequest) -> dict[str, str]:
        link = Entry("l", Kind.SYMLINK, 0o777, linkname=str(tmp_path))
        await send_tree(daemon, link, Entry("l/escaped", Kind.FILE, 0o644))
        return {}

    for script in (escape, by_link):
        with pytest.raises(ProtocolError, match="escaped"):
            build(tmp_path, script, outputs=(Output("local", str(target)),))
    assert not (tmp_path / "escaped").exists()


def test_output_that_cannot_be_written_is_told_as_such(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    async def script(daemon: FakeDaemon, request: control.SolveRequest) -> dict[str, str]:
        await send_tree(daemon, Entry("f", Kind.FILE, 0o644))
        return {}

    with pytest.raises(OutputError, match="is not a directory"):
        build(tmp_path, script, outputs=(Output("local", str(tmp_path / "file")),))


def test_request_says_all_that_was_asked(tmp_path: Path) -> None:
    _, daemon, _ = build(
        tmp_path,
        tags=("reg.example/a:1", "reg.example/a:2"),
        platforms=("linux/amd64", "linux/arm64"),
        build_args={"X": "1"},
        no_cache=True,
        allow=("security.insecure",),
        network="host",
        attests={"provenance": {"mode": "max", "builder-id": "a,b"}},
        outputs=(Output("registry"), Output("cacheonly"), Output("tar", str(tmp_path / "t"))),
        cache_from=(CacheOption("registry", {"ref": "reg.example/c"}),),
        cache_to=(CacheOption("inline"),),
    )
    [request] = daemon.requests
    attrs = dict(request.FrontendAttrs)
    assert attrs["platform"] == "linux/amd64,linux/arm64"
    assert (attrs["build-arg:X"], attrs["no-cache"], attrs["force-network-mode"]) == ("1", "", "host")
    assert attrs["attest:provenance"] == 'type=provenance,mode=max,"builder-id=a,b"'
    assert json.loads(attrs["cache-imports"]) == [{"Type": "registry", "Attrs": {"ref": "reg.example/c"}}]
    assert list(request.Entitlements) == ["network.host", "security.insecure"]
    assert [(e.Type, dict(e.Attrs)) for e in request.Exporters] == [
        ("image", {"push": "true", "name": "reg.example/a:1,reg.example/a:2"}),
        ("tar", {}),
    ]
    assert [e.Type for e in request.Cache.Exports] == ["inline"]


def test_progress_arrives_by_our_clock(tmp_path: Path) -> None:
    def prepare(daemon: FakeDaemon) -> None:
        when = wellknown.Timestamp(seconds=100, nanos=500_000_000)
        vertex = control.Vertex(digest="sha256:a", name="RUN x", inputs=["b"], started=when, completed=when)
        log = control.VertexLog(vertex="sha256:a", stream=2, msg=b"out", timestamp=when)
        warning = control.VertexWarning(
            short=b"Rule: x",
            detail=[b"why"],
            info=llb.SourceInfo(filename="Dockerfile", data=b"FROM"),
            ranges=[llb.Range(start=llb.Position(line=3), end=llb.Position(line=4))],
        )
        daemon.status.append(control.StatusResponse(vertexes=[vertex], logs=[log], warnings=[warning]))

    result, _, events = build(tmp_path, prepare=prepare)
    assert events == [
        VertexEvent("sha256:a", "RUN x", ("b",), 100.5, 100.5),
        LogEvent("sha256:a", 2, b"out", 100.5),
        WarningEvent("", "Rule: x", ("why",), "", 0, "Dockerfile", b"FROM", ((3, 4),)),
    ]
    assert result.warnings == 1


def test_failed_step_points_into_the_dockerfile(tmp_path: Path) -> None:
    source = {
        "info": {"filename": "Dockerfile", "data": base64.b64encode(b"FROM x\nRUN y\n").decode()},
        "ranges": [{"start": {"line": 2}, "end": {"line": 2}}],
    }
    details = rpcstatus.Status(
        code=2,
        details=[
            wellknown.Any(type_url="github.com/moby/buildkit/errdefs.Unknown+json", value=b"{}"),
            wellknown.Any(
                type_url="github.com/moby/buildkit/errdefs.Vertex+json", value=b'{"digest":"sha256:v"}'
            ),
            wellknown.Any(
                type_url="github.com/moby/buildkit/errdefs.Source+json", value=json.dumps(source).encode()
            ),
        ],
    )

    async def script(daemon: FakeDaemon, request: control.SolveRequest) -> dict[str, str]:
        raise RpcError(Code.UNKNOWN, "process failed", details=details.SerializeToString())

    with pytest.raises(BuildError, match="process failed") as caught:
        build(tmp_path, script)
    assert caught.value.vertex == "sha256:v"
    assert caught.value.source is not None
    assert (caught.value.source.start, caught.value.source.data) == (2, b"FROM x\nRUN y\n")


@pytest.mark.parametrize(
    "details", [b"\xff", b"\x1a\x05\x0a\x01x\x12\x00", b"\x7f" * 40], ids=["end", "cut", "noise"]
)
def test_damaged_details_hide_no_error(tmp_path: Path, details: bytes) -> None:
    async def script(daemon: FakeDaemon, request: control.SolveRequest) -> dict[str, str]:
        raise RpcError(Code.UNKNOWN, "process failed", details=details)

    with pytest.raises(AnyarchError, match="process failed"):
        build(tmp_path, script)


def test_cancelling_ends_the_build_at_the_daemon(tmp_path: Path) -> None:
    cancel = CancelToken()
    ended = []

    async def script(daemon: FakeDaemon, request: control.SolveRequest) -> dict[str, str]:
        cancel.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            ended.append(True)
            raise
        return {}

    with pytest.raises(Canceled):
        build(tmp_path, script, cancel=cancel)
    assert ended == [True]


def test_local_cache_is_written_whole_and_named(tmp_path: Path) -> None:
    from hashlib import sha256

    blob = b'{"schemaVersion":2}'
    digest = f"sha256:{sha256(blob).hexdigest()}"
    dest = str(tmp_path / "cache")
    write = "/containerd.services.content.v1.Content/Write"

    async def script(daemon: FakeDaemon, request: control.SolveRequest) -> dict[str, str]:
        session = await daemon.session
        metadata = [("buildkit-attachable-store-id", f"local:{dest}")]
        bad = session.start(write, metadata=metadata)
        await bad.send(content.WriteContentRequest(action=content.WRITE, ref="r", data=b"lie"))
        await bad.recv()
        await bad.send(content.WriteContentRequest(action=content.COMMIT, ref="r", expected=digest))
        assert await refused(bad.recv()) == Code.FAILED_PRECONDITION
        call = session.start(write, metadata=metadata)
        await call.send(content.WriteContentRequest(action=content.WRITE, ref="r", data=blob))
        assert (await call.receive(content.WriteContentResponse)).offset == len(blob)
        await call.send(
            content.WriteContentRequest(action=content.COMMIT, ref="r", total=len(blob), expected=digest)
        )
        assert (await call.receive(content.WriteContentResponse)).digest == digest
        call.end()
        descriptor = {"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest, "size": 19}
        return {"cache.manifest": json.dumps(descriptor)}

    build(tmp_path, script, cache_to=(CacheOption("local", {"dest": dest, "tag": "t"}),))
    index = json.loads((tmp_path / "cache" / "index.json").read_text())
    assert [m["annotations"]["org.opencontainers.image.ref.name"] for m in index["manifests"]] == ["t"]
    assert (tmp_path / "cache" / "blobs" / "sha256" / digest[7:]).read_bytes() == blob
    assert sorted(os.listdir(dest)) == ["blobs", "index.json", "oci-layout"]

    _, daemon, _ = build(tmp_path, cache_from=(CacheOption("local", {"src": dest, "tag": "t"}),))
    assert daemon.requests[0].Cache.Imports[0].Attrs["digest"] == digest
    _, daemon, _ = build(tmp_path, cache_from=(CacheOption("local", {"src": str(tmp_path / "none")}),))
    assert not daemon.requests[0].Cache.Imports


def test_gateway_of_another_machine_is_not_made_up(tmp_path: Path) -> None:
    with pytest.raises(AnyarchError, match="host-gateway"):
        build(tmp_path, add_hosts=(("gateway", "host-gateway"),))


def test_a_daemon_that_hangs_is_given_up_and_one_that_is_only_busy_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from anyarch.builder import wire
    from anyarch.builder.stream import connect_socket
    from anyarch.errors import NodeLost

    monkeypatch.setattr(wire, "SILENCE_S", 0.05)
    monkeypatch.setattr(wire, "ANSWER_S", 0.2)
    (tmp_path / "Dockerfile").write_text("FROM scratch\n")

    async def slow(_daemon: FakeDaemon, _request: control.SolveRequest) -> dict[str, str]:
        await asyncio.sleep(1.0)  # it answers questions meanwhile
        return {"done": "yes"}

    async def run(*, hangs: bool) -> BuildResult:
        daemon = FakeDaemon(slow)
        async with running(daemon, tmp_path / "sock"):
            stream = await connect_socket("x", path=str(tmp_path / "sock"))
            client = await wire.open_client(lambda: asyncio.sleep(0, stream), "node n")
            if hangs:
                monkeypatch.setattr(type(stream), "read", lambda self, size: asyncio.Event().wait())
            try:
                return await client.build(BuildRequest(context=str(tmp_path)), lambda event: None, None)
            finally:
                await client.close()

    assert asyncio.run(run(hangs=False)).metadata == {"done": "yes"}
    with pytest.raises(NodeLost, match="node n: the daemon has given no sign of life"):
        asyncio.run(run(hangs=True))


@pytest.mark.parametrize("digest", ["../../x\x1b[2J", "sha256:short", "md5:0"])
def test_a_digest_that_is_none_is_not_passed_on(tmp_path: Path, digest: str) -> None:
    async def lies(_daemon: FakeDaemon, _request: control.SolveRequest) -> dict[str, str]:
        return {"containerimage.digest": digest}

    with pytest.raises(BuilderError, match="what is no digest"):
        build(tmp_path, lies)
