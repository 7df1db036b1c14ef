"""Registries that cannot be reached, lack what is wanted, refuse it or lie: what the user reads."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from anyarch.spec import media
from anyarch.spec.digest import Digest
from anyarch.spec.oci import Blob
from anyarch.testing.registry import FakeRegistry

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.failures.conftest import Machine

OUTPUT = ("--output", "type=cacheonly")


@pytest.fixture
def fake() -> Iterator[FakeRegistry]:
    with FakeRegistry() as registry:
        yield registry


@pytest.fixture
def dead_port() -> Iterator[int]:
    """A port of loopback that nobody listens on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


def layer(name: str = "file", content: bytes = b"content\n") -> bytes:
    import io
    import tarfile

    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        member = tarfile.TarInfo(name)
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def test_a_registry_that_nobody_runs(anyarch: Machine, dead_port: int) -> None:
    name = f"127.0.0.1:{dead_port}/base"
    anyarch.dockerfile(f"FROM {name}\nCOPY file /\n")
    answer = anyarch.build(*OUTPUT)
    answer.check(f"{name}", "[Cc]onnection refused")
    assert "Dockerfile:1\n" in answer.errors


def test_a_registry_whose_name_does_not_exist(anyarch: Machine) -> None:
    anyarch.dockerfile("FROM registry.invalid/base\nCOPY file /\n")
    answer = anyarch.build(*OUTPUT)
    answer.check("registry.invalid")
    assert "Dockerfile:1\n" in answer.errors


def test_an_image_that_the_registry_lacks(anyarch: Machine, fake: FakeRegistry) -> None:
    anyarch.dockerfile(f"FROM {fake.address}/nothing:1\nCOPY file /\n")
    anyarch.build(*OUTPUT).check(f"{fake.address}/nothing:1", "not found")


def test_an_image_without_the_platform_names_those_it_has(anyarch: Machine, fake: FakeRegistry) -> None:
    entries = []
    for architecture in ("arm64", "s390x"):
        manifest = fake.add_image("base", layers=[layer()], architecture=architecture)
        platform = {"os": "linux", "architecture": architecture}
        entries.append(
            {
                "mediaType": manifest.media_type,
                "digest": manifest.digest,
                "size": len(manifest.raw),
                "platform": platform,
            }
        )
    import json

    index = {"schemaVersion": 2, "mediaType": media.OCI_INDEX, "manifests": entries}
    fake.add_manifest("base", Blob.of(media.OCI_INDEX, json.dumps(index).encode()), tag="1")
    anyarch.dockerfile(f"FROM {fake.address}/base:1\nCOPY file /\n")
    answer = anyarch.build("--platform", "linux/riscv64", *OUTPUT)
    answer.check("linux/riscv64", hint="linux/arm64.*linux/s390x")


def fault(method: str, pattern: str, **how: object) -> dict[str, object]:
    return {"method": method, "pattern": pattern, "times": 99, **how}


def asked_again(*values: object, id: str) -> object:
    """A case in which a registry is asked for half a minute before it is given up."""
    return pytest.param(*values, id=id, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        pytest.param(fault("", "/manifests/", status=403), "access denied", id="forbidden"),
        asked_again(fault("", "/manifests/", status=429), "rate limited", id="limit"),
        asked_again(fault("", "/manifests/", status=500), "500", id="broken"),
        asked_again(fault("", "/manifests/", drop=True), "closed|connection", id="drop"),
        pytest.param(fault("GET", "/manifests/", corrupt=True), "sha256|digest|manifest", id="manifest"),
        pytest.param(fault("GET", "/blobs/", corrupt=True), "sha256:[0-9a-f]+", id="blob"),
        pytest.param(fault("GET", "/blobs/", status=404), "blob [0-9a-f]{12}: not found", id="no blob"),
    ],
)
def test_registries_that_fail_or_lie(
    anyarch: Machine, fake: FakeRegistry, wrong: dict[str, object], said: str
) -> None:
    fake.add_image("base", "1", [layer()])
    fake.fault(**wrong)  # type: ignore[arg-type]
    anyarch.dockerfile(f"FROM {fake.address}/base:1\nRUN true\nCOPY file /\n")
    answer = anyarch.build("--output", "out")
    answer.check(said, hint=None)
    assert fake.address in answer.paragraph or "Dockerfile:" in answer.errors
    # Nothing wrong is kept: the build works when the registry does.
    fake.faults.clear()
    anyarch.dockerfile(f"FROM {fake.address}/base:1\nCOPY file /copied\n")
    assert anyarch.build("--output", "out").status == 0


@pytest.mark.parametrize(
    ("document", "said"),
    [
        (b"", "manifest"),
        (b"<html>log in</html>", "manifest|JSON|HTML"),
        (b"[]", "manifest"),
        (b'{"schemaVersion":2}', "manifest|media"),
        (b'{"schemaVersion":2,"config":{},"layers":[]}', "digest|config|manifest"),
        (b'{"schemaVersion":2,"config":{"mediaType":"application/vnd.oci.image.config.v1+json",'
         b'"digest":"../../etc/passwd","size":1},"layers":[]}',
         "digest|passwd"),
        (b'{"schemaVersion":2,"config":{"mediaType":"application/vnd.oci.image.config.v1+json",'
         b'"digest":"sha256:' + b"0" * 64
         + b'","size":-5},"layers":[]}', "size|not found|negative|manifest"),
        (b"\xff" * 2000, "manifest"),
        (b"[" * 100_000, "manifest"),
    ],
    ids=["empty", "html", "list", "bare", "hollow", "escape", "negative", "binary", "deep"],
)  # fmt: skip
def test_manifests_that_are_none(anyarch: Machine, fake: FakeRegistry, document: bytes, said: str) -> None:
    fake.add_manifest("base", Blob.of(media.OCI_MANIFEST, document), tag="1")
    anyarch.dockerfile(f"FROM {fake.address}/base:1\nCOPY file /\n")
    answer = anyarch.build("--output", "out")
    answer.check(said, hint=None)


@pytest.mark.parametrize(
    "config", [b"", b"nonsense", b"[]", b'{"rootfs":{"diff_ids":["x"]}}', b'{"config":{"Env":[7]}}']
)
def test_configs_that_are_none(anyarch: Machine, fake: FakeRegistry, config: bytes) -> None:
    import json

    raw = layer()
    manifest = {
        "schemaVersion": 2,
        "mediaType": media.OCI_MANIFEST,
        "config": {
            "mediaType": media.OCI_CONFIG,
            "digest": fake.add_blob("base", config),
            "size": len(config),
        },
        "layers": [
            {"mediaType": media.OCI_LAYER_TAR, "digest": fake.add_blob("base", raw), "size": len(raw)}
        ],
    }
    fake.add_manifest("base", Blob.of(media.OCI_MANIFEST, json.dumps(manifest).encode()), tag="1")
    anyarch.dockerfile(f"FROM {fake.address}/base:1\nCOPY file /\n")
    answer = anyarch.build("--output", "out")
    answer.check("config", hint=None)


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"no archive at all" * 100, "layer|tar|archive"),
        (layer()[:700], "layer|tar|archive|ends|truncated"),
    ],
    ids=["text", "cut"],
)
def test_layers_that_are_no_archives(anyarch: Machine, fake: FakeRegistry, raw: bytes, said: str) -> None:
    fake.add_image("base", "1", [raw])
    anyarch.dockerfile(f"FROM {fake.address}/base:1\nCOPY file /\n")
    answer = anyarch.build("--output", "out")
    answer.check(said, hint=None)


@pytest.mark.parametrize("name", ["/absolute", "../above", "a/../../above"])
def test_layers_that_lead_out_stay_inside(anyarch: Machine, fake: FakeRegistry, name: str) -> None:
    fake.add_image("base", "1", [layer(name)])
    anyarch.dockerfile(f"FROM {fake.address}/base:1\nCOPY file /\n")
    answer = anyarch.build("--output", "out")
    if answer.status:
        answer.check("layer|path|\\.\\.", hint=None)
    else:
        assert (anyarch.directory / "out/absolute").read_bytes() == b"content\n"
    assert not (anyarch.directory / "above").exists()
    assert not (anyarch.directory.parent / "above").exists()


def test_a_digest_that_is_not_the_images(anyarch: Machine, fake: FakeRegistry) -> None:
    fake.add_image("base", "1", [layer()])
    wrong = Digest.of(b"something else")
    anyarch.dockerfile(f"FROM {fake.address}/base:1@{wrong}\nCOPY file /\n")
    anyarch.build(*OUTPUT).check(str(wrong), "not found", hint=None)


def test_pushing_where_nobody_listens(anyarch: Machine, dead_port: int) -> None:
    answer = anyarch.build("-t", f"127.0.0.1:{dead_port}/app", "--push")
    answer.check("could not be pushed", f"127.0.0.1:{dead_port}", "[Cc]onnection refused")


def test_pushing_without_permission(anyarch: Machine, fake: FakeRegistry) -> None:
    fake.fault("POST", "/uploads/", status=403, times=99, body={"errors": [{"code": "DENIED"}]})
    answer = anyarch.build("-t", f"{fake.address}/app", "--push")
    answer.check(f"{fake.address}/app", hint="log|permission|credentials")


@pytest.mark.slow
def test_a_push_that_breaks_off_leaves_the_old_tag(anyarch: Machine, fake: FakeRegistry) -> None:
    assert anyarch.build("-t", f"{fake.address}/app", "--push").status == 0
    old = fake.tags["app", "latest"]
    (anyarch.context / "file").write_text("changed\n")
    fake.fault("PUT", "/manifests/", status=500, times=99)
    anyarch.build("-t", f"{fake.address}/app", "--push").check("app", "500", hint=None)
    assert fake.tags["app", "latest"] == old


def test_running_and_looking_at_what_is_not_there(anyarch: Machine, fake: FakeRegistry) -> None:
    anyarch("run", f"{fake.address}/none").check("not found", status=125, hint=None)
    anyarch("imagetools", "inspect", f"{fake.address}/none").check("not found", hint=None)
