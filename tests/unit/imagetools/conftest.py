from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from anyarch.registry.client import Registry
from anyarch.registry.credentials import Credentials
from anyarch.registry.hosts import Hosts
from anyarch.spec import media
from anyarch.spec.digest import Digest
from anyarch.spec.oci import Blob, Descriptor, Index, Manifest, encode
from anyarch.spec.platform import Platform
from anyarch.testing.registry import FakeRegistry

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def fake() -> Iterator[FakeRegistry]:
    with FakeRegistry() as registry:
        yield registry


@pytest.fixture
def client() -> Iterator[Registry]:
    registry = Registry(Hosts(), Credentials({"HOME": "/nonexistent"}))
    yield registry
    registry.close()


def add_multi(fake: FakeRegistry, *, attested: bool = False) -> Blob:
    """lib/app:1 for two platforms; returns the index."""
    entries = []
    for text in ("linux/amd64", "linux/arm/v7"):
        platform = Platform.parse(text)
        image = fake.add_image(
            "lib/app", None, [b"layer"], architecture=platform.architecture, variant=platform.variant
        )
        entries.append(image.descriptor(platform=platform.spec()))
    if attested:
        entries.append(add_attestation(fake, entries[0]))
    return fake.add_index("lib/app", "1", entries)


def add_attestation(fake: FakeRegistry, subject: Descriptor) -> Descriptor:
    """What BuildKit adds: a manifest with an SBOM and a provenance statement about `subject`."""
    layers = []
    for kind, predicate in (
        ("https://spdx.dev/Document", '{"SPDXID":"SPDXRef-DOCUMENT"}'),
        ("https://slsa.dev/provenance/v0.2", '{"buildType":"https://mobyproject.org/buildkit@v1"}'),
    ):
        raw = f'{{"predicateType":"{kind}","predicate":{predicate}}}'.encode()
        layers.append(
            Descriptor(
                "application/vnd.in-toto+json",
                fake.add_blob("lib/app", raw),
                len(raw),
                annotations={"in-toto.io/predicate-type": kind},
            )
        )
    config = Descriptor(media.OCI_CONFIG, fake.add_blob("lib/app", b"{}"), 2)
    manifest = Manifest(schema_version=2, media_type=media.OCI_MANIFEST, config=config, layers=tuple(layers))
    blob = Blob.of(media.OCI_MANIFEST, encode(manifest))
    fake.add_manifest("lib/app", blob)
    return blob.descriptor(
        platform=Platform("unknown", "unknown").spec(),
        annotations={
            "vnd.docker.reference.type": "attestation-manifest",
            "vnd.docker.reference.digest": subject.digest,
        },
    )


def write_layout(directory: Path, fake: FakeRegistry, repository: str, *entries: Descriptor) -> None:
    """An OCI layout with all of a repository's content."""
    blobs = directory / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    (directory / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    (directory / "index.json").write_bytes(
        encode(Index(schema_version=2, media_type=media.OCI_INDEX, manifests=entries))
    )
    for (name, digest), raw in fake.blobs.items():
        if name == repository:
            (blobs / Digest(digest).hex).write_bytes(raw)
    for (name, digest), blob in fake.manifests.items():
        if name == repository:
            (blobs / Digest(digest).hex).write_bytes(blob.raw)
