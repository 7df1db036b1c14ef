"""Provenance that the daemon makes: for images and files, and for the record of every build."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from anyarch.api.proto import content_pb2, control_pb2, gateway_pb2, llb_pb2, rpcstatus_pb2
from anyarch.api.rpc.status import RpcError
from anyarch.daemon.settings import settings_of
from anyarch.engine import build as run_build
from anyarch.engine.request import BuildRequest, Output
from anyarch.errors import UsageError
from anyarch.llb.ops import ActionMkfile
from anyarch.llb.state import State
from anyarch.registry.client import Registry
from anyarch.registry.credentials import Credentials
from anyarch.registry.hosts import Hosts
from anyarch.spec import media
from anyarch.spec.digest import Digest
from anyarch.spec.oci import Blob, Descriptor, Index, Manifest, encode
from anyarch.spec.platform import host_platform
from anyarch.spec.reference import Reference
from anyarch.testing.registry import FakeRegistry
from tests.unit.daemon.harness import CONTROL, Client, ask, daemon, give_back, run, solve, tree

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from anyarch.api.rpc.client import Channel

SLSA = "https://slsa.dev/provenance/v1"
SIGNED = "sha256:" + hashlib.sha256(b"signed").hexdigest()


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
        async with daemon(tmp_path) as channel, client.serving(channel):

            async def made_of(**opts: Any) -> gateway_pb2.Result:
                request = gateway_pb2.SolveRequest(Frontend="dockerfile.v0", allowResultReturn=True, **opts)
                reply = await ask(channel, "led", "Solve", request, gateway_pb2.SolveResponse)
                found: gateway_pb2.Result = reply.result
                return found

            building = asyncio.ensure_future(
                solve(channel, client, "led", FrontendAttrs={"root-request": "r"})
            )
            made = await made_of(FrontendOpt={"target": "base", "build-arg:TEXT": "t"})
            result = await made_of(
                FrontendOpt={"context:linked": "input:made"},
                FrontendInputs={"made": getattr(made.ref, "def")},
            )
            await give_back(channel, "led", result=result)
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


def pushed(tmp_path: Path, name: str) -> str:
    """An image with provenance under that name; its digest."""
    context = tree(tmp_path / "pushed", Dockerfile="FROM scratch\nCOPY one /\n", one="1")
    result = run_build(
        BuildRequest(
            context=str(context),
            outputs=(Output("image", attrs={"name": name, "push": "true"}),),
            root=str(tmp_path / "other"),
            attests={"provenance": {"mode": "min"}},
        )
    )
    assert result.digest is not None
    return result.digest


async def _asking(
    tmp_path: Path, name: str, check: Callable[[Callable[..., Awaitable[Any]]], Awaitable[None]]
) -> None:
    """`check` gets what asks a daemon about the image."""
    client = Client()
    async with daemon(tmp_path) as channel, client.serving(channel):
        building = asyncio.ensure_future(solve(channel, client, "led"))

        async def resolve(**fields: Any) -> Any:
            request = gateway_pb2.ResolveSourceMetaRequest(
                Source=llb_pb2.SourceOp(identifier=f"docker-image://{name}"),
                Image=gateway_pb2.ResolveSourceImageRequest(NoConfig=True, **fields),
            )
            reply = await ask(
                channel, "led", "ResolveSourceMeta", request, gateway_pb2.ResolveSourceMetaResponse
            )
            return reply.Image

        await check(resolve)
        await give_back(channel, "led", result=gateway_pb2.Result())
        await building


_BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"


def _signature_of(subject: Descriptor) -> Manifest:
    return Manifest(
        schema_version=2,
        media_type=media.OCI_MANIFEST,
        artifact_type=_BUNDLE,
        config=Blob.of(media.EMPTY_JSON, b"{}").descriptor(),
        layers=(Descriptor(_BUNDLE, Digest(SIGNED), len(b"signed")),),
        subject=subject,
    )


def test_a_client_sees_what_attests_an_image_and_what_signs_that(tmp_path: Path) -> None:
    with FakeRegistry() as remote:
        name = f"{remote.address}/a/b:1"
        digest = pushed(tmp_path, name)

        async def check(resolve: Callable[..., Awaitable[Any]]) -> None:
            assert not (await resolve()).HasField("AttestationChain")
            chain = (await resolve(AttestationChain=True)).AttestationChain
            assert chain.Root == digest
            assert set(chain.Blobs) == {digest, chain.AttestationManifest, *chain.SignatureManifests, SIGNED}
            assert chain.Blobs[SIGNED].data == b"signed"
            manifest = json.loads(chain.Blobs[chain.AttestationManifest].data)
            assert manifest["subject"]["digest"] == chain.ImageManifest
            (layer,) = manifest["layers"]
            more = (await resolve(ResolveAttestations=[SLSA])).AttestationChain
            statement = json.loads(more.Blobs[layer["digest"]].data)
            assert "sha256:" + statement["subject"][0]["digest"]["sha256"] == chain.ImageManifest

        reference = Reference.parse(name)
        registry = Registry(Hosts.load(), Credentials())
        try:
            entries = json.loads(registry.manifest(reference).raw)["manifests"]
            for raw in (b"signed", b"{}"):
                remote.add_blob("a/b", raw)
            subject = Descriptor(media.OCI_MANIFEST, Digest(entries[1]["digest"]), entries[1]["size"])
            signature = Blob.of(media.OCI_MANIFEST, encode(_signature_of(subject)))
            registry.push_manifest(reference, signature, tag=None)
        finally:
            registry.close()
        run(_asking(tmp_path, name, check))


def _hardened(remote: FakeRegistry, *, predicate: str) -> dict[str, str]:
    """An image like those of Docker's that are hardened: what attests it is found by asking the registry."""
    image = remote.add_image("dhi/b", layers=(b"layer",))
    entry = msgspec.structs.replace(
        image.descriptor(),
        platform=host_platform(),
        annotations={"com.docker.dhi.build.id": "1"},
    )
    title = {"org.opencontainers.image.title": "dhi/b"}
    index = Index(schema_version=2, media_type=media.OCI_INDEX, manifests=(entry,), annotations=title)
    root = remote.add_manifest("dhi/b", Blob.of(media.OCI_INDEX, encode(index)), tag="1")
    for raw in (b"{}", b"statement", b"signed"):
        remote.add_blob("dhi/b", raw)
    kind = "application/vnd.in-toto+json"
    statement = Descriptor(
        kind, Digest.of(b"statement"), 9, annotations={"in-toto.io/predicate-type": predicate}
    )
    attestation = Manifest(
        schema_version=2,
        media_type=media.OCI_MANIFEST,
        artifact_type=kind,
        config=Blob.of(media.EMPTY_JSON, b"{}").descriptor(),
        layers=(statement,),
        subject=image.descriptor(),
        annotations={"in-toto.io/predicate-type": predicate},
    )
    attesting = Blob.of(media.OCI_MANIFEST, encode(attestation))
    remote.add_manifest("dhi/b", attesting)
    signature = Blob.of(media.OCI_MANIFEST, encode(_signature_of(attesting.descriptor())))
    remote.add_manifest("dhi/b", signature)
    found = {
        "root": root,
        "image": image.digest,
        "attestation": attesting.digest,
        "signature": signature.digest,
    }
    return {key: str(value) for key, value in found.items()}


def test_attestations_of_hardened_images_are_those_that_refer_to_them(tmp_path: Path) -> None:
    with FakeRegistry() as remote:
        digests = _hardened(remote, predicate=SLSA)

        async def check(resolve: Callable[..., Awaitable[Any]]) -> None:
            chain = (await resolve(ResolveAttestations=[SLSA])).AttestationChain
            assert (chain.Root, chain.ImageManifest) == (digests["root"], digests["image"])
            assert chain.AttestationManifest == digests["attestation"]
            assert list(chain.SignatureManifests) == [digests["signature"]]
            assert chain.Blobs[str(Digest.of(b"statement"))].data == b"statement"
            assert chain.Blobs[SIGNED].data == b"signed"

        run(_asking(tmp_path, f"{remote.address}/dhi/b:1", check))


def test_a_hardened_image_that_nothing_attests_is_an_error(tmp_path: Path) -> None:
    with FakeRegistry() as remote:
        digests = _hardened(remote, predicate="https://spdx.dev/Document")

        async def check(resolve: Callable[..., Awaitable[Any]]) -> None:
            with pytest.raises(
                RpcError, match=f"no attestation referrers found for DHI manifest {digests['image']}"
            ):
                await resolve(AttestationChain=True)

        run(_asking(tmp_path, f"{remote.address}/dhi/b:1", check))


@pytest.mark.parametrize(
    ("version", "kind"),
    [(0, "oci.image.manifest.v1"), (20, "docker.distribution"), (10, "docker.distribution")],
)
def test_older_releases_of_outputs_have_dockers_types(tmp_path: Path, version: int, kind: str) -> None:
    async def work() -> None:
        client = Client()
        definition = State().file(ActionMkfile("/f", 0o644, b"x")).marshal()
        fields = {"Definition": llb_pb2.Definition.FromString(definition.marshal())}
        async with daemon(tmp_path) as channel, client.serving(channel):
            for ref, more in (("plain", {}), ("attested", {"attest:provenance": "mode=max"})):
                answer = await solve(
                    channel,
                    client,
                    ref,
                    FrontendAttrs=more,
                    CompatibilityVersion=version,
                    Exporters=[control_pb2.Exporter(Type="image", Attrs={"name": "x/y"})],
                    **fields,
                )
                descriptor = json.loads(
                    base64.b64decode(answer.ExporterResponse["containerimage.descriptor"])
                )
                wanted = kind if ref == "plain" else "oci.image.index.v1"
                assert wanted in descriptor["mediaType"]
            with pytest.raises(RpcError, match="unsupported compatibility-version 40"):
                await solve(channel, client, "new", CompatibilityVersion=40, **fields)

    run(work())


def test_what_an_older_version_had_not_is_told_in_detail(tmp_path: Path) -> None:
    async def work() -> None:
        context = tree(tmp_path / "c", Dockerfile="FROM scratch\nCOPY Dockerfile /\n")
        client = Client(context=context, dockerfile=context)
        async with daemon(tmp_path) as channel, client.serving(channel):
            exporter = control_pb2.Exporter(Type="oci", Attrs={"compression": "zstd"})
            with pytest.raises(RpcError) as caught:
                await solve(
                    channel,
                    client,
                    Frontend="dockerfile.v0",
                    CompatibilityVersion=10,
                    Exporters=[exporter],
                )
            feature = "oci exporter compression=zstd"
            assert str(caught.value.message) == f"unsupported compatibility-version 10 feature {feature}"
            status = rpcstatus_pb2.Status.FromString(caught.value.details)
            details = {item.type_url: item.value for item in status.details}
            told = details["github.com/moby/buildkit/errdefs.CompatibilityFeature+json"]
            assert json.loads(told) == {"version": 10, "feature": feature}

    run(work())
