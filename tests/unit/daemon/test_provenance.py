"""Provenance that the daemon makes: for images and files, and for the record of every build."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from anyarch.api.proto import content_pb2, control_pb2, gateway_pb2
from anyarch.daemon.settings import settings_of
from anyarch.errors import UsageError
from tests.unit.daemon.harness import BRIDGE, CONTROL, Client, daemon, run, solve, tree

if TYPE_CHECKING:
    from pathlib import Path

    from anyarch.api.rpc.client import Channel

SLSA = "https://slsa.dev/provenance/v1"


async def record_of(channel: Channel, ref: str) -> Any:
    call = channel.start(CONTROL + "ListenBuildHistory")
    await call.send(control_pb2.BuildHistoryRequest(Ref=ref, EarlyExit=True))
    call.end()
    (event,) = [event async for event in call.messages(control_pb2.BuildHistoryEvent)]
    return event.record


async def read(channel: Channel, digest: str) -> Any:
    call = channel.start("/containerd.services.content.v1.Content/Read")
    await call.send(content_pb2.ReadContentRequest(digest=digest))
    call.end()
    parts = [part.data async for part in call.messages(content_pb2.ReadContentResponse)]
    return json.loads(b"".join(parts))


def test_files_come_with_provenance_and_the_record_has_all_of_it(tmp_path: Path) -> None:
    async def work() -> None:
        context = tree(tmp_path / "c", Dockerfile="FROM scratch\nCOPY one /one\n", one="1")
        client = Client(context=context, dockerfile=context)
        client.target = tree(tmp_path / "out")
        attrs = {"attest:provenance": "mode=min,builder-id=me", "build-arg:A": "1", "filename": "Dockerfile"}
        async with daemon(tmp_path, provenance={"runner": [1, 2]}) as channel, client.serving(channel):
            await solve(
                channel,
                client,
                "one",
                Frontend="dockerfile.v0",
                FrontendAttrs=attrs,
                Exporters=[control_pb2.Exporter(Type="local")],
            )
            assert client.target is not None
            statement = json.loads((client.target / "provenance.json").read_bytes())
            assert [item["name"] for item in statement["subject"]] == ["one"]
            definition = statement["predicate"]["buildDefinition"]
            assert definition["externalParameters"]["configSource"] == {"path": "Dockerfile"}
            assert "args" not in definition["externalParameters"]["request"]
            assert definition["internalParameters"]["runner"] == [1, 2]
            record = await record_of(channel, "one")
            (attached,) = record.Result.Attestations
            assert attached.annotations["in-toto.io/predicate-type"] == SLSA
            kept = await read(channel, attached.digest)
            request = kept["buildDefinition"]["externalParameters"]["request"]
            assert request["args"] == {"build-arg:A": "1"}
            assert kept["runDetails"]["builder"] == {"id": "me"}
            assert kept["buildDefinition"]["internalParameters"]["buildConfig"]["llbDefinition"]
            # It goes with the record.
            await channel.unary(
                CONTROL + "UpdateBuildHistory",
                control_pb2.UpdateBuildHistoryRequest(Ref="one", Delete=True),
                control_pb2.UpdateBuildHistoryResponse,
            )
            blobs = tmp_path / "root" / "history" / "blobs"
            assert attached.digest.removeprefix("sha256:") not in {path.name for path in blobs.iterdir()}

    run(work())


def test_who_made_an_input_is_told_with_the_request_that_takes_it(tmp_path: Path) -> None:
    async def work() -> None:
        text = "FROM scratch AS base\nARG TEXT\nCOPY one /one\nFROM scratch\nCOPY --from=linked /one /two\n"
        context = tree(tmp_path / "c", Dockerfile=text, one="1")
        client = Client(context=context, dockerfile=context)
        metadata = [("buildkit-controlapi-buildid", "led")]
        async with daemon(tmp_path) as channel, client.serving(channel):
            import asyncio

            async def ask(**opts: Any) -> gateway_pb2.Result:
                request = gateway_pb2.SolveRequest(Frontend="dockerfile.v0", allowResultReturn=True, **opts)
                reply = await channel.unary(
                    BRIDGE + "Solve", request, gateway_pb2.SolveResponse, metadata=metadata
                )
                found: gateway_pb2.Result = reply.result
                return found

            building = asyncio.ensure_future(
                solve(channel, client, "led", FrontendAttrs={"root-request": "r"})
            )
            made = await ask(FrontendOpt={"target": "base", "build-arg:TEXT": "t"})
            result = await ask(
                FrontendOpt={"context:linked": "input:made"},
                FrontendInputs={"made": getattr(made.ref, "def")},
            )
            await channel.unary(
                BRIDGE + "Return",
                gateway_pb2.ReturnRequest(result=result),
                gateway_pb2.ReturnResponse,
                metadata=metadata,
            )
            await building
            record = await record_of(channel, "led")
            (attached,) = record.Result.Attestations
            kept = await read(channel, attached.digest)
            request = kept["buildDefinition"]["externalParameters"]["request"]
            assert request["args"] == {"context:linked": "input:made"}
            assert request["inputs"]["made"]["request"] == {
                "frontend": "dockerfile.v0",
                "args": {"build-arg:TEXT": "t", "target": "base"},
            }
            assert request["root"]["request"] == {"args": {"root-request": "r"}}

    run(work())


def test_what_the_operator_adds_is_read_from_a_directory(tmp_path: Path) -> None:
    directory = tree(tmp_path / "p", **{"a.json": '{"x":1,"y":1}', "b.json": '{"y":2}', "c.txt": "no"})
    config = tmp_path / "config.toml"
    config.write_text(f'provenanceEnvDir = "{directory}"\n')
    assert settings_of({"config": str(config)}).provenance == {"x": 1, "y": 2}
    (directory / "d.json").write_text('{"buildConfig":1}')
    with pytest.raises(UsageError, match='key "buildConfig" is builtin'):
        settings_of({"config": str(config)})
    (directory / "d.json").write_text("[")
    with pytest.raises(UsageError, match="cannot be read"):
        settings_of({"config": str(config)})
