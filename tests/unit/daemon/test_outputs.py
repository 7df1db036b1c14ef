"""Outputs and build caches of a daemon's builds, as a client asks for them."""

from __future__ import annotations

import io
import json
import tarfile
from typing import TYPE_CHECKING, Any

import pytest

from anyarch.api.proto import control_pb2, exporter_pb2, gateway_pb2, llb_pb2
from anyarch.api.rpc.server import unary
from anyarch.api.rpc.status import Code, RpcError
from anyarch.engine.verify import platform_warnings
from anyarch.llb.ops import ActionCopy, ActionMkfile
from anyarch.llb.state import CopySource, State
from anyarch.session.offer.content import BlobDirectory, content_methods
from anyarch.spec.platform import Platform
from tests.unit.daemon.harness import (
    BRIDGE,
    CONTROL,
    Client,
    ask,
    daemon,
    give_back,
    run,
    solve,
    statuses,
    tree,
)

if TYPE_CHECKING:
    from pathlib import Path

    from anyarch.api.rpc.client import Channel

PROVED = "FROM scratch\nCOPY one /\n"


def cache(**options: dict[str, str]) -> control_pb2.CacheOptions:
    made = control_pb2.CacheOptions()
    for name, attrs in options.items():
        place = made.Exports if name == "to" else made.Imports
        place.append(control_pb2.CacheOptionsEntry(Type="local", Attrs=attrs))
    return made


def graph(text: str) -> llb_pb2.Definition:
    state = State().file(ActionMkfile("/f", 0o644, text.encode()))
    return llb_pb2.Definition.FromString(state.marshal().marshal())


def test_a_build_cache_is_kept_in_a_directory_of_the_client(tmp_path: Path) -> None:
    where = tmp_path / "cache"
    context = tree(tmp_path / "c", Dockerfile=PROVED, one="1")

    def client() -> Client:
        made = Client(context=context, dockerfile=context)
        made.more = content_methods({f"local:{where}": BlobDirectory(str(where), is_writable=True)})
        return made

    async def work() -> None:
        first, second = client(), client()
        async with daemon(tmp_path / "a") as channel, first.serving(channel):
            answer = await solve(
                channel, first, Frontend="dockerfile.v0", Cache=cache(to={"dest": str(where), "mode": "max"})
            )
        manifest = json.loads(answer.ExporterResponse["cache.manifest"])
        blobs = {path.name for path in (where / "blobs" / "sha256").iterdir()}
        assert manifest["digest"].removeprefix("sha256:") in blobs
        (tmp_path / "c" / "one").touch()
        async with daemon(tmp_path / "b") as channel, second.serving(channel):
            await solve(
                channel,
                second,
                Frontend="dockerfile.v0",
                Exporters=[control_pb2.Exporter(Type="tar")],
                Cache=cache(**{"from": {"src": str(where), "digest": manifest["digest"]}}),
            )
            call = channel.start(CONTROL + "Status")
            await call.send(control_pb2.StatusRequest(Ref="job"))
            call.end()
            seen = [
                v for m in [m async for m in call.messages(control_pb2.StatusResponse)] for v in m.vertexes
            ]
            assert {v.cached for v in seen if "COPY" in v.name and v.HasField("completed")} == {True}
        with tarfile.open(fileobj=io.BytesIO(second.archives["0"])) as tar:
            assert tar.extractfile("one").read() == b"1"  # type: ignore[union-attr]

    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    run(work())


@pytest.mark.parametrize(
    ("attrs", "says"),
    [({}, "local cache exporter requires dest"), ({"dest": "/tmp/ä"}, "non-printable ASCII characters")],
)
def test_a_directory_that_cannot_be_named_is_an_error_unless_it_may_fail(
    tmp_path: Path, attrs: dict[str, str], says: str
) -> None:
    async def work() -> None:
        client = Client()
        async with daemon(tmp_path) as channel, client.serving(channel):
            with pytest.raises(RpcError) as caught:
                await solve(channel, client, Definition=graph("x"), Cache=cache(to={**attrs, "mode": "max"}))
            assert says in caught.value.message
            lenient = {**attrs, "mode": "max", "ignore-error": "true"}
            await solve(channel, client, "again", Definition=graph("x"), Cache=cache(to=lenient))

    run(work())


async def lead(channel: Channel, client: Client, result: gateway_pb2.Result, *outputs: Any) -> Any:
    """A build that a client leads, with this result."""
    import asyncio

    building = asyncio.ensure_future(solve(channel, client, "led", Exporters=list(outputs)))
    await give_back(channel, "led", result=result)
    return (await building).ExporterResponse


def test_the_frontend_names_and_annotates_its_image(tmp_path: Path) -> None:
    async def work() -> None:
        client = Client()
        said = {
            "image.name": b"example.com/from/frontend:1",
            "annotation.plain": b"of the frontend",
            "annotation.both": b"of the frontend",
        }
        output = control_pb2.Exporter(Type="oci", Attrs={"name": "*", "annotation.both": "of the output"})
        async with daemon(tmp_path) as channel, client.serving(channel):
            response = await lead(channel, client, gateway_pb2.Result(metadata=said), output)
        assert response["image.name"] == "example.com/from/frontend:1"
        with tarfile.open(fileobj=io.BytesIO(client.archives["0"])) as tar:
            digest = response["containerimage.digest"].removeprefix("sha256:")
            manifest = json.load(tar.extractfile(f"blobs/sha256/{digest}"))  # type: ignore[arg-type]
        assert manifest["annotations"] == {"plain": "of the frontend", "both": "of the frontend"}

    run(work())


def test_a_client_that_takes_no_archive_still_learns_what_was_built(tmp_path: Path) -> None:
    async def work() -> None:
        client = Client()
        client.takes_archives = False
        async with daemon(tmp_path) as channel, client.serving(channel):
            answer = await solve(
                channel, client, Definition=graph("x"), Exporters=[control_pb2.Exporter(Type="oci")]
            )
            assert answer.ExporterResponse["containerimage.digest"].startswith("sha256:")
            with pytest.raises(RpcError, match="target already exists"):
                await solve(
                    channel,
                    client,
                    "tar",
                    Definition=graph("x"),
                    Exporters=[control_pb2.Exporter(Type="tar")],
                )

    run(work())


def test_of_several_images_the_response_names_the_last(tmp_path: Path) -> None:
    async def work() -> None:
        client = Client()
        outputs = [
            control_pb2.Exporter(Type="image", Attrs={"name": f"example.com/{name}:1", "oci-mediatypes": oci})
            for name, oci in (("a", "true"), ("b", "false"))
        ]
        async with daemon(tmp_path) as channel, client.serving(channel):
            answer = await solve(channel, client, Definition=graph("x"), Exporters=outputs)
            assert answer.ExporterResponse["image.name"] == "example.com/b:1"

    run(work())


def test_an_output_may_bring_the_config_of_its_image(tmp_path: Path) -> None:
    made = "2001-02-03T04:05:06Z"
    given = {
        "architecture": "amd64",
        "os": "linux",
        "created": made,
        "config": {"Env": ["A=b"]},
        "history": [{"created": made, "created_by": "who knows", "empty_layer": True}],
    }

    async def work() -> None:
        client = Client()
        attrs = {"containerimage.config": json.dumps(given), "attest:provenance": "mode=max"}
        async with daemon(tmp_path) as channel, client.serving(channel):
            wanted = [control_pb2.Exporter(Type="oci", Attrs=attrs)]
            await solve(channel, client, Definition=graph("x"), Exporters=wanted)
            other = control_pb2.Exporter(Type="oci", Attrs={"containerimage.config": "{}"})
            with pytest.raises(RpcError, match="two outputs give the image another"):
                await solve(channel, client, "two", Definition=graph("x"), Exporters=[*wanted, other])
            local = control_pb2.Exporter(Type="local", Attrs=attrs)
            with pytest.raises(RpcError, match="unknown attribute"):
                await solve(channel, client, "local", Definition=graph("x"), Exporters=[local])
        blobs = []
        with tarfile.open(fileobj=io.BytesIO(client.archives["0"])) as tar:
            for member in tar:
                stream = tar.extractfile(member)
                if stream is not None and member.name.startswith("blobs/") and member.size < 5000:
                    blobs.append(stream.read())
        (config,) = [json.loads(raw) for raw in blobs if b'"rootfs"' in raw]
        assert (config["config"]["Env"], config["created"]) == (["A=b"], made)
        # What the config does not account for is above what it does.
        assert [entry.get("created_by", "") for entry in config["history"]] == ["who knows", ""]

    run(work())


def test_zstd_has_a_media_type_of_dockers_too(tmp_path: Path) -> None:
    async def work() -> None:
        client = Client()
        attrs = {"compression": "zstd", "oci-mediatypes": "false"}
        async with daemon(tmp_path) as channel, client.serving(channel):
            answer = await solve(
                channel,
                client,
                Definition=graph("x"),
                Exporters=[control_pb2.Exporter(Type="oci", Attrs=attrs)],
            )
        digest = answer.ExporterResponse["containerimage.digest"].removeprefix("sha256:")
        with tarfile.open(fileobj=io.BytesIO(client.archives["0"])) as tar:
            manifest = json.load(tar.extractfile(f"blobs/sha256/{digest}"))  # type: ignore[arg-type]
        assert [item["mediaType"].rpartition(".")[2] for item in manifest["layers"]] == ["zstd"]

    run(work())


@pytest.mark.parametrize(
    ("metadata", "says"),
    [
        ({"containerimage.config": b"null"}, "invalid null image config for export"),
        (
            {"containerimage.config": b'{"architecture":"amd64"}'},
            "invalid image config: os and architecture must be specified together",
        ),
        ({"refs.platforms": b"null"}, "invalid empty platforms index for exporter"),
        ({"refs.platforms": b'{"Platforms":[{"Platform":{}}]}'}, "invalid empty platform key for exporter"),
        ({"refs.platforms": b'{"Platforms":[{"ID":"x","Platform":{}}]}'}, "invalid platform value"),
    ],
)
def test_what_a_frontend_must_not_return_is_named(
    tmp_path: Path, metadata: dict[str, bytes], says: str
) -> None:
    async def work() -> None:
        client = Client()
        async with daemon(tmp_path) as channel, client.serving(channel):
            with pytest.raises(RpcError) as caught:
                await lead(
                    channel, client, gateway_pb2.Result(metadata=metadata), control_pb2.Exporter(Type="oci")
                )
            assert says in caught.value.message

    run(work())


def test_a_client_says_what_is_made_of_a_result_after_it_has_seen_it(tmp_path: Path) -> None:
    async def work() -> None:
        client = Client()
        told: list[dict[str, str]] = []

        async with daemon(tmp_path) as channel:

            async def find(request: Any, call: Any) -> exporter_pb2.FindExportersResponse:
                (ref,) = request.refs
                file = gateway_pb2.ReadFileRequest(Ref=ref, FilePath="/f")
                found = await ask(channel, "job", "ReadFile", file, gateway_pb2.ReadFileResponse)
                name = f"example.com/{found.Data.decode()}:1"
                wanted = exporter_pb2.ExporterRequest(Type="image", Attrs={"name": name})
                return exporter_pb2.FindExportersResponse(exporters=[wanted])

            async def finalize(request: Any, call: Any) -> exporter_pb2.FinalizeExportResponse:
                told.append(dict(request.exporter_response))
                if len(told) == 2:
                    raise RpcError(Code.UNKNOWN, "not like that")
                return exporter_pb2.FinalizeExportResponse()

            client.more = {
                "/moby.exporter.v1.Exporter/FindExporters": unary(exporter_pb2.FindExportersRequest, find),
                "/moby.exporter.v1.Exporter/FinalizeExport": unary(
                    exporter_pb2.FinalizeExportRequest, finalize
                ),
            }
            async with client.serving(channel):
                asked: dict[str, Any] = {"Definition": graph("seen"), "EnableSessionExporter": True}
                answer = await solve(channel, client, **asked)
                assert answer.ExporterResponse["image.name"] == "example.com/seen:1"
                assert told == [dict(answer.ExporterResponse)]
                with pytest.raises(RpcError, match="not like that"):
                    await solve(channel, client, **asked)
            plain = Client()
            async with plain.serving(channel):
                await solve(channel, plain, **asked)

    run(work())


def test_a_result_for_other_platforms_than_were_asked_for_is_warned_of(tmp_path: Path) -> None:
    async def work() -> None:
        client = Client()
        async with daemon(tmp_path) as channel, client.serving(channel):
            for ref, platforms in (("one", "linux/amd64,linux/arm64"), ("two", "")):
                await solve(
                    channel,
                    client,
                    ref,
                    Definition=graph("x"),
                    FrontendAttrs={"platform": platforms} if platforms else {},
                )
            texts = {
                ref: [w.short.decode() for status in await statuses(channel, ref) for w in status.warnings]
                for ref in ("one", "two")
            }
            assert texts == {
                "one": ["Multiple platforms requested but result is not multi-platform"],
                "two": [],
            }

    run(work())


@pytest.mark.parametrize(
    ("asked", "made", "says"),
    [
        (["linux/arm64"], ["linux/arm64"], []),
        (
            ["linux/arm64"],
            ["linux/amd64"],
            ['Requested platform "linux/arm64" does not match result platform "linux/amd64"'],
        ),
        (["linux/amd64", "linux/amd64"], [], ['Duplicate platform result requested "linux/amd64"']),
        (
            ["linux/amd64"],
            ["linux/arm64", "linux/amd64"],
            ["Requested platforms linux/amd64 do not match result platforms linux/amd64,linux/arm64"],
        ),
        (["linux/arm64", "linux/amd64"], ["linux/amd64", "linux/arm64"], []),
    ],
)
def test_platforms_of_a_result_are_compared(asked: list[str], made: list[str], says: list[str]) -> None:
    assert platform_warnings(asked, [Platform.parse(text) for text in made], is_multi=True) == says


def test_a_ping_for_a_build_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    async def work() -> None:
        async with daemon(tmp_path) as channel:
            with pytest.raises(RpcError) as caught:
                await ask(channel, "nobody", "Ping", gateway_pb2.PingRequest(), gateway_pb2.PongResponse)
            assert (caught.value.code, caught.value.message) == (Code.NOT_FOUND, "no such job nobody")
            with pytest.raises(RpcError, match="no buildid found in context"):
                await channel.unary(BRIDGE + "Ping", gateway_pb2.PingRequest(), gateway_pb2.PongResponse)

    run(work())


@pytest.mark.parametrize(
    ("target", "says"),
    [
        # Of another tree, what a copy uses is read when the key is made; of an empty one, and of the tree
        # that is changed, by the copy itself.
        (State().file(ActionMkfile("/x", 0o644, b"")), "failed to compute cache key: failed to calculate"),
        (State(), "lstat /gone: no such file or directory"),
        (None, "lstat /gone: no such file or directory"),
    ],
)
def test_a_missing_file_is_told_as_it_was_looked_for(tmp_path: Path, target: State | None, says: str) -> None:
    async def work() -> None:
        client = Client()
        base = State().file(ActionMkfile("/f", 0o644, b"1"))
        copied = base.file(CopySource(target if target is not None else base, ActionCopy("/gone", "/here")))
        sent = llb_pb2.Definition.FromString(copied.marshal().marshal())
        async with daemon(tmp_path) as channel, client.serving(channel):
            with pytest.raises(RpcError) as caught:
                await solve(channel, client, Definition=sent)
            assert says in caught.value.message

    run(work())


def test_the_time_that_an_annotation_gives_stays(tmp_path: Path) -> None:
    key = "org.opencontainers.image.created"

    async def work() -> None:
        client = Client()
        attrs = {f"annotation-index-descriptor.{key}": "2022-01-23T12:34:56Z"}
        platforms = {"Platforms": [{"ID": "p", "Platform": {"os": "linux", "architecture": "arm64"}}]}
        result = gateway_pb2.Result(metadata={"refs.platforms": json.dumps(platforms).encode()})
        result.refs.refs["p"].SetInParent()
        async with daemon(tmp_path) as channel, client.serving(channel):
            await lead(channel, client, result, control_pb2.Exporter(Type="oci", Attrs=attrs))
        with tarfile.open(fileobj=io.BytesIO(client.archives["0"])) as tar:
            (entry,) = json.load(tar.extractfile("index.json"))["manifests"]  # type: ignore[arg-type]
        assert entry["annotations"][key] == "2022-01-23T12:34:56Z"

    run(work())
