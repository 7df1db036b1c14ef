"""Attestations that a client's frontend gives: beside images in their index, and beside files."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import tarfile
from typing import TYPE_CHECKING, Any

import pytest

from anyarch.api.proto import control_pb2, gateway_pb2, llb_pb2
from anyarch.api.rpc.status import RpcError
from anyarch.llb.ops import ActionMkfile
from anyarch.llb.state import State
from tests.unit.daemon.harness import Client, ask, daemon, give_back, run, solve

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PREDICATE = b'{"ok":true}'
TYPE = "https://example.com/kind/v1"
AMD64 = "linux/amd64"


async def lead(
    path: Path,
    output: control_pb2.Exporter,
    attest: Callable[[gateway_pb2.Ref], list[gateway_pb2.Attestation]],
    **files: bytes,
) -> tuple[Client, Any]:
    """A build of a client whose result is the file `greeting`, with attestations made of `files`; what it is
    answered, or the error's text."""
    client = Client()
    async with daemon(path) as channel, client.serving(channel):

        async def ref(**content: bytes) -> gateway_pb2.Ref:
            state = State()
            for name, data in content.items():
                state = state.file(
                    ActionMkfile(f"/{name}.json" if name != "greeting" else "/greeting", 0o644, data)
                )
            definition = llb_pb2.Definition.FromString(state.marshal().marshal())
            request = gateway_pb2.SolveRequest(Definition=definition, allowResultReturn=True)
            reply = await ask(channel, "led", "Solve", request, gateway_pb2.SolveResponse)
            found: gateway_pb2.Ref = reply.result.ref
            return found

        building = asyncio.ensure_future(solve(channel, client, "led", Exporters=[output]))
        platforms = {"Platforms": [{"ID": AMD64, "Platform": {"os": "linux", "architecture": "amd64"}}]}
        result = gateway_pb2.Result(metadata={"refs.platforms": json.dumps(platforms).encode()})
        result.ref.CopyFrom(await ref(greeting=b"hello"))
        result.attestations[AMD64].attestation.extend(attest(await ref(**files)))
        await give_back(channel, "led", result=result)
        try:
            return client, (await building).ExporterResponse
        except RpcError as error:
            return client, error.message


def plain(ref: gateway_pb2.Ref) -> list[gateway_pb2.Attestation]:
    own = gateway_pb2.InTotoSubject(kind=0)  # type: ignore[arg-type]
    other = gateway_pb2.InTotoSubject(kind=1, name="other", digest=["sha256:ab"])  # type: ignore[arg-type]
    return [
        gateway_pb2.Attestation(
            ref=ref, path="/a.json", inTotoPredicateType=TYPE, inTotoSubjects=[own, other]
        )
    ]


@pytest.mark.parametrize("artifact", [True, False])
def test_an_image_has_a_manifest_of_statements_about_it(tmp_path: Path, artifact: bool) -> None:
    attrs = {"name": "example.com:5/a/b:1,busybox", "oci-artifact": str(artifact).lower()}
    client = Client()

    async def work() -> None:
        nonlocal client
        client, response = await lead(
            tmp_path, control_pb2.Exporter(Type="oci", Attrs=attrs), plain, a=PREDICATE
        )
        with tarfile.open(fileobj=io.BytesIO(client.archives["0"])) as tar:

            def blob(digest: str) -> Any:
                return json.load(tar.extractfile(f"blobs/sha256/{digest.removeprefix('sha256:')}"))  # type: ignore[arg-type]

            index = blob(response["containerimage.digest"])
            image, attested = index["manifests"]
            assert attested["platform"] == {"architecture": "unknown", "os": "unknown"}
            assert attested["annotations"] == {
                "vnd.docker.reference.digest": image["digest"],
                "vnd.docker.reference.type": "attestation-manifest",
            }
            manifest = blob(attested["digest"])
            (layer,) = manifest["layers"]
            assert layer["mediaType"] == "application/vnd.in-toto+json"
            assert layer["annotations"] == {"in-toto.io/predicate-type": TYPE}
            own = {"sha256": image["digest"].removeprefix("sha256:")}
            assert blob(layer["digest"]) == {
                "_type": "https://in-toto.io/Statement/v1",
                "predicateType": TYPE,
                "predicate": {"ok": True},
                "subject": [
                    {"name": "pkg:docker/example.com%3A5/a/b@1?platform=linux%2Famd64", "digest": own},
                    {"name": "pkg:docker/busybox@latest?platform=linux%2Famd64", "digest": own},
                    {"name": "other", "digest": {"sha256": "ab"}},
                ],
            }
            config = blob(manifest["config"]["digest"])
            if artifact:
                assert manifest["artifactType"] == "application/vnd.docker.attestation.manifest.v1+json"
                assert manifest["subject"]["digest"] == image["digest"]
                assert config == {}
            else:
                assert "subject" not in manifest
                assert config["rootfs"]["diff_ids"] == [layer["digest"]]

    run(work())


def test_statements_about_files_lie_beside_them(tmp_path: Path) -> None:
    async def work() -> None:
        output = control_pb2.Exporter(Type="tar", Attrs={"attestation-prefix": "x."})
        client, _ = await lead(tmp_path, output, plain, a=PREDICATE)
        with tarfile.open(fileobj=io.BytesIO(client.archives["0"])) as tar:
            assert sorted(tar.getnames()) == ["greeting", "x.a.json"]
            found = json.load(tar.extractfile("x.a.json"))  # type: ignore[arg-type]
        hello = {"sha256": hashlib.sha256(b"hello").hexdigest()}
        assert found["subject"][0] == {"name": "greeting", "digest": hello}

    run(work())


def test_a_bundle_is_a_directory_of_statements(tmp_path: Path) -> None:
    whole = {
        "_type": "https://in-toto.io/Statement/v0.1",
        "predicateType": TYPE,
        "subject": [{"name": "given", "digest": {"sha256": "cd"}}],
        "predicate": {"n": 1},
    }

    def bundle(ref: gateway_pb2.Ref) -> list[gateway_pb2.Attestation]:
        return [gateway_pb2.Attestation(kind=1, ref=ref, path="/")]  # type: ignore[arg-type]

    async def work() -> None:
        output = control_pb2.Exporter(Type="tar")
        client, _ = await lead(tmp_path, output, bundle, b=json.dumps(whole).encode())
        with tarfile.open(fileobj=io.BytesIO(client.archives["0"])) as tar:
            found = json.load(tar.extractfile("b.json"))  # type: ignore[arg-type]
        assert (found["subject"], found["predicate"]) == (whole["subject"], {"n": 1})

    run(work())


@pytest.mark.parametrize(
    ("fields", "files", "says"),
    [
        (
            {"inTotoPredicateType": "https://slsa.dev/provenance/v1", "path": "/a.json"},
            {"a": b"{}"},
            "may not set provenance",
        ),
        ({"inTotoPredicateType": TYPE}, {"a": b"{}"}, "does not have set path"),
        ({"inTotoPredicateType": TYPE, "path": "/a.json"}, {"a": b"{"}, "is not JSON"),
        ({"kind": 1, "path": "/"}, {"a": b"[]"}, "cannot decode in-toto statement"),
        (
            {"kind": 1, "path": "/", "inTotoPredicateType": "x"},
            {"a": b'{"predicateType":"y"}'},
            "does not match required predicate type x",
        ),
        (
            {"kind": 1, "path": "/"},
            {"a": b'{"predicateType":"https://slsa.dev/provenance/v0.2"}'},
            "may not bundle provenance",
        ),
    ],
)
def test_attestations_that_cannot_be_are_errors(
    tmp_path: Path, fields: dict[str, Any], files: dict[str, bytes], says: str
) -> None:
    async def work() -> None:
        _, message = await lead(
            tmp_path,
            control_pb2.Exporter(Type="oci"),
            lambda ref: [gateway_pb2.Attestation(ref=ref, **fields)],
            **files,
        )
        assert says in message

    run(work())
