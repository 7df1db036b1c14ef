"""Images of unusual shapes: they are inspected, copied, handed to skopeo and built upon."""

from __future__ import annotations

import io
import tarfile
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from anyarch.errors import AnyarchError
from anyarch.spec import media
from anyarch.spec.oci import Blob, Descriptor, encode
from anyarch.spec.platform import Platform
from anyarch.testing.builder import Builder
from anyarch.testing.debian_registry import DebianRegistry
from anyarch.testing.registry import FakeRegistry

from .tools import podman, run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import Bases

pytestmark = pytest.mark.interop


@pytest.fixture
def fake() -> Iterator[FakeRegistry]:
    with FakeRegistry() as registry:
        yield registry


@pytest.fixture
def build(tmp_path: Path) -> Builder:
    return Builder(tmp_path)


def layer(name: str, content: bytes = b"") -> bytes:
    """A layer with one file."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        if name:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return out.getvalue()


def entry_of(blob: Blob, platform: str = "") -> Descriptor:
    spec = Platform.parse(platform).spec() if platform else None
    return Descriptor(blob.media_type, blob.digest, len(blob.raw), platform=spec)


def skopeo_copies(fake: FakeRegistry, name: str, target: Path) -> None:
    run(
        *("skopeo", "copy", "-q", "--all", "--src-tls-verify=false"),
        *(f"docker://{fake.address}/{name}", f"oci:{target}:1"),
    )


def test_images_of_more_layers_than_an_overlay_takes(
    fake: FakeRegistry, build: Builder, tmp_path: Path
) -> None:
    fake.add_image("o/many", "1", [layer(f"f{n}", b"%d" % n) for n in range(200)])
    image = build(f"FROM {fake.address}/o/many:1\nCOPY a /a\n", files={"a": "A"})
    assert image.read_text("/f0") == "0"
    assert image.read_text("/f199") == "199"
    assert len(image.manifest().layers) == 201
    skopeo_copies(fake, "o/many:1", tmp_path / "out")


@pytest.mark.parametrize("docker", [False, True])
@pytest.mark.parametrize("layers", [(), (b"",), (layer(""),), (layer("a", b"1"),) * 2])
def test_images_of_no_layers_empty_ones_and_the_same_twice(
    fake: FakeRegistry, build: Builder, layers: tuple[bytes, ...], docker: bool
) -> None:
    raw = [blob or layer("") for blob in layers]
    fake.add_image("o/few", "1", raw, docker=docker)
    image = build(f"FROM {fake.address}/o/few:1\nCOPY b /b\n", files={"b": "B"})
    assert image.read_text("/b") == "B"
    assert len(image.manifest().layers) == len(raw) + 1


@pytest.mark.parametrize("architecture", ["amd64", "arm64"])
def test_an_index_in_an_index_is_a_base(fake: FakeRegistry, build: Builder, architecture: str) -> None:
    inner = [
        entry_of(
            fake.add_image("o/n", None, [layer("arch", name.encode())], architecture=name), f"linux/{name}"
        )
        for name in ("amd64", "arm64")
    ]
    middle = fake.add_index("o/n", None, inner)
    fake.add_index("o/n", "1", [entry_of(fake.add_index("o/n", None, [entry_of(middle)]))])
    image = build(
        f"FROM {fake.address}/o/n:1\nCOPY a /a\n", files={"a": ""}, platform=f"linux/{architecture}"
    )
    assert image.read_text("/arch") == architecture


def test_an_artifact_beside_an_image_is_passed_by(fake: FakeRegistry, build: Builder, tmp_path: Path) -> None:
    image = fake.add_image("o/m", None, [layer("a", b"1")])
    empty = Descriptor("application/vnd.oci.empty.v1+json", fake.add_blob("o/m", b"{}"), 2)
    text = Descriptor("text/plain", fake.add_blob("o/m", b"hello"), 5)
    document = {
        "schemaVersion": 2,
        "mediaType": media.OCI_MANIFEST,
        "artifactType": "application/x-thing",
        "config": empty,
        "layers": [text],
        "subject": entry_of(image),
    }
    artifact = Blob.of(media.OCI_MANIFEST, encode(document))
    fake.add_manifest("o/m", artifact, tag="artifact")
    fake.add_index("o/m", "1", [entry_of(artifact), entry_of(image, "linux/amd64")])
    assert build(f"FROM {fake.address}/o/m:1\nCOPY b /b\n", files={"b": ""}).read_text("/a") == "1"
    skopeo_copies(fake, "o/m:1", tmp_path / "out")
    with pytest.raises(AnyarchError, match="is not an image config"):
        build(f"FROM {fake.address}/o/m:artifact\nCOPY b /b\n", files={"b": ""})


@pytest.mark.root
@pytest.mark.registry
def test_layers_that_podman_packs_as_zstd_chunked_are_read(
    bases: Bases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANYARCH_REGISTRY_MIRRORS", bases.environment["ANYARCH_REGISTRY_MIRRORS"])
    source = f"{bases.registry}/library/busybox:latest"
    plain = Builder(tmp_path / "plain")("FROM busybox\nCOPY a /a\n", files={"a": "A"})
    with (
        tempfile.TemporaryDirectory(prefix="interop") as directory,
        # An empty one: podman sends no layer again that the registry has in another form.
        DebianRegistry(tmp_path / "registry") as registry,
    ):
        target = f"{registry.address}/o/chunked:1"
        run(*podman(Path(directory), "pull", "-q", "--tls-verify=false", source))
        run(
            *podman(Path(directory), "push", "-q", "--tls-verify=false", "--format", "oci"),
            *("--compression-format", "zstd:chunked", source, target),
        )
        raw = run("skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{target}")
        image = Builder(tmp_path / "built")(f"FROM {target}\nCOPY a /a\n", files={"a": "A"})
    assert "layer.v1.tar+zstd" in raw
    assert "io.containers.zstd-chunked" in raw
    assert image.path("/bin/busybox").read_bytes() == plain.path("/bin/busybox").read_bytes()
