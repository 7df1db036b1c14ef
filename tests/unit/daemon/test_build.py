"""Builds through the daemon, asked for by grpcio with a session that the test itself serves."""

from __future__ import annotations

import asyncio
import base64
import json
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from anyarch.api.proto import (
    control_pb2,
    gateway_pb2,
    llb_pb2,
    rpcstatus_pb2,
)
from anyarch.api.rpc.status import Code, RpcError
from anyarch.daemon.caps import llb_caps
from anyarch.llb.ops import ActionMkdir, ActionMkfile, ActionSymlink
from anyarch.llb.state import State

if TYPE_CHECKING:
    from pathlib import Path


from .harness import Client, ask, daemon, give_back, names_in, run, solve, statuses, tree


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


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("FROM scratch\nENV", [2]),
        ("#syntax=localhost:1/none\nFROM scratch", [1]),
        ("FROM scratch\nCOPY --foo=bar / /\nENV a=b", [2]),
        ("FROM scratch\nRUN wh\\\nat\nENV a=b", [2, 3]),
    ],
)
def test_an_error_shows_each_line_and_where_the_file_comes_from(
    tmp_path: Path, text: str, lines: list[int]
) -> None:
    async def work() -> None:
        context = tree(tmp_path / "c", Dockerfile=text)
        client = Client(context=context, dockerfile=context)
        async with daemon(tmp_path) as channel, client.serving(channel):
            with pytest.raises(RpcError) as caught:
                await solve(channel, client, Frontend="dockerfile.v0")
        status = rpcstatus_pb2.Status.FromString(caught.value.details)
        (source,) = [json.loads(item.value) for item in status.details if "Source" in item.type_url]
        assert [item["start"]["line"] for item in source["ranges"]] == lines
        assert [item["end"]["line"] for item in source["ranges"]] == lines
        assert base64.b64decode(source["info"]["data"]).decode() == text
        ops = [base64.b64decode(raw) for raw in source["info"]["definition"]["def"]]
        assert b"local://dockerfile" in ops[0]
        assert len(source["info"]["definition"]["metadata"]) == len(ops)

    run(work())


@pytest.mark.parametrize(
    ("attrs", "kind", "name"),
    [
        ({"requestid": "frontend.subrequests.none"}, "Subrequest", "frontend.subrequests.none"),
        ({"frontend.caps": "moby.buildkit.frontend.none"}, "FrontendCap", "moby.buildkit.frontend.none"),
    ],
)
def test_what_the_frontend_cannot_do_is_named_for_clients_to_tell(
    tmp_path: Path, attrs: dict[str, str], kind: str, name: str
) -> None:
    async def work() -> None:
        context = tree(tmp_path / "c", Dockerfile="FROM scratch\nCOPY Dockerfile /\n")
        client = Client(context=context, dockerfile=context)
        async with daemon(tmp_path) as channel, client.serving(channel):
            with pytest.raises(RpcError) as caught:
                await solve(channel, client, Frontend="dockerfile.v0", FrontendAttrs=attrs)
            assert caught.value.code == Code.UNIMPLEMENTED
            (detail,) = rpcstatus_pb2.Status.FromString(caught.value.details).details
            assert detail.type_url == f"github.com/moby/buildkit/errdefs.{kind}+json"
            assert json.loads(detail.value) == {"name": name}
            forward = {"frontend.caps": "moby.buildkit.frontend.none+forward"}
            await solve(channel, client, "forward", Frontend="dockerfile.v0", FrontendAttrs=forward)

    run(work())


def test_a_client_that_leads_the_build_solves_reads_and_returns(tmp_path: Path) -> None:
    async def work() -> None:
        client = Client()
        async with daemon(tmp_path) as channel, client.serving(channel), asyncio.TaskGroup() as group:
            building = group.create_task(
                solve(channel, client, "led", Exporters=[control_pb2.Exporter(Type="tar")])
            )

            call = partial(ask, channel, "led")
            pong = await call("Ping", gateway_pb2.PingRequest(), gateway_pb2.PongResponse)
            assert {"solve.base", "return"} <= {cap.ID for cap in pong.FrontendAPICaps}
            definition = (
                State()
                .file(
                    ActionMkdir("/d", 0o755),
                    ActionMkfile("/d/f", 0o640, b"content"),
                    ActionSymlink("f", "/d/link"),
                )
                .marshal()
            )
            reply = await call(
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
            read = await call(
                "ReadFile",
                gateway_pb2.ReadFileRequest(
                    Ref=ref.id, FilePath="/d/f", Range=gateway_pb2.FileRange(Offset=3, Length=2)
                ),
                gateway_pb2.ReadFileResponse,
            )
            assert read.Data == b"te"
            listed = await call(
                "ReadDir", gateway_pb2.ReadDirRequest(Ref=ref.id, DirPath="/"), gateway_pb2.ReadDirResponse
            )
            assert [(e.path, e.mode) for e in listed.entries] == [("d", 1 << 31 | 0o755)]
            found = await call(
                "StatFile", gateway_pb2.StatFileRequest(Ref=ref.id, Path="/d/f"), gateway_pb2.StatFileResponse
            )
            assert (found.stat.path, found.stat.mode, found.stat.size) == ("f", 0o640, 7)
            listed = await call(
                "ReadDir", gateway_pb2.ReadDirRequest(Ref=ref.id, DirPath="/d"), gateway_pb2.ReadDirResponse
            )
            # A link's size is that of its target's path, as lstat tells it.
            assert [(e.path, e.size, e.linkname) for e in listed.entries] == [("f", 7, ""), ("link", 1, "f")]
            await call("Evaluate", gateway_pb2.EvaluateRequest(Ref=ref.id), gateway_pb2.EvaluateResponse)
            with pytest.raises(RpcError) as caught:
                await call(
                    "ReadFile",
                    gateway_pb2.ReadFileRequest(Ref=ref.id, FilePath="/none"),
                    gateway_pb2.ReadFileResponse,
                )
            assert caught.value.code == Code.NOT_FOUND
            await call(
                "Warn",
                gateway_pb2.WarnRequest(digest="sha256:" + "0" * 64, short=b"beware"),
                gateway_pb2.WarnResponse,
            )
            await call(
                "Return",
                gateway_pb2.ReturnRequest(
                    result=gateway_pb2.Result(ref=gateway_pb2.Ref(id=ref.id), metadata={"frontend.x": b"y"})
                ),
                gateway_pb2.ReturnResponse,
            )
            response = await building
            assert response.ExporterResponse["frontend.x"] == "y"
            assert names_in(client.archives["0"]) == ["d", "d/f", "d/link"]
            told = await statuses(channel, "led")
            assert [w.short for m in told for w in m.warnings] == [b"beware"]

    run(work())


def test_an_error_that_the_client_returns_is_the_builds(tmp_path: Path) -> None:
    async def work() -> None:
        client = Client()
        async with daemon(tmp_path) as channel, client.serving(channel):
            building = asyncio.ensure_future(solve(channel, client, "led"))
            error = rpcstatus_pb2.Status(code=7, message="not like this")
            await give_back(channel, "led", error=error)
            with pytest.raises(RpcError) as caught:
                await building
            assert (caught.value.code, caught.value.message) == (7, "not like this")

    run(work())


def test_a_call_for_a_build_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    async def work() -> None:
        async with daemon(tmp_path) as channel:
            with pytest.raises(RpcError) as caught:
                request = gateway_pb2.EvaluateRequest(Ref="x")
                await ask(channel, "nobody", "Evaluate", request, gateway_pb2.EvaluateResponse)
            assert (caught.value.code, caught.value.message) == (Code.NOT_FOUND, "no such job nobody")

    run(work())


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"Frontend": "nonsense.v0"}, "invalid frontend: nonsense.v0"),
        ({"Entitlements": ["security.insecure"]}, "granting entitlement security.insecure is not allowed"),
        (
            {"Frontend": "dockerfile.v0", "FrontendAttrs": {"attest:provenance": "mode=most"}},
            'invalid mode "most"',
        ),
        ({"FrontendAttrs": {"attest:other": ""}}, 'unknown attestation type "other"'),
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


def test_what_clients_switch_features_by_is_announced() -> None:
    names = {cap.ID for cap in llb_caps()}
    assert {"exporter.image.attestations", "history.filter", "exporter.multiple"} <= names


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


def test_a_dockerfile_that_uses_no_context_needs_none(tmp_path: Path) -> None:
    """It comes as a graph; the client offers no directories."""

    async def work() -> None:
        client = Client()
        methods = client.methods()
        del methods["/moby.filesync.v1.FileSync/DiffCopy"]
        client.methods = lambda: methods  # type: ignore[method-assign]

        def inputs(text: bytes) -> dict[str, llb_pb2.Definition]:
            definition = State().file(ActionMkfile("/Dockerfile", 0o644, text)).marshal()
            return {"dockerfile": llb_pb2.Definition.FromString(definition.marshal())}

        async with daemon(tmp_path) as channel, client.serving(channel):
            platforms = {"platform": "linux/amd64,linux/arm64"}
            options: dict[str, Any] = {"Frontend": "dockerfile.v0", "FrontendAttrs": platforms}
            await solve(channel, client, "none", FrontendInputs=inputs(b"FROM scratch"), **options)
            with pytest.raises(RpcError, match="no local sources enabled"):
                used = inputs(b"FROM scratch\nCOPY a /\n")
                await solve(channel, client, "used", FrontendInputs=used, **options)
            with pytest.raises(RpcError, match="invalid nil input definition to definition op"):
                empty = {"context": llb_pb2.Definition(), "dockerfile": llb_pb2.Definition()}
                await solve(channel, client, "empty", FrontendInputs=empty, **options)

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
