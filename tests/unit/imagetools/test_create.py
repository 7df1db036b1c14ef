from __future__ import annotations

import json

import pytest

from anyarch.errors import NoMatchingPlatform, UnsupportedMedia, UsageError
from anyarch.imagetools.combine import Annotation
from anyarch.imagetools.create import CreateRequest, create
from anyarch.registry.client import Registry
from anyarch.registry.credentials import Credentials
from anyarch.registry.hosts import Hosts
from anyarch.spec import media
from anyarch.spec.oci import Blob, Descriptor, Manifest, encode
from anyarch.spec.platform import Platform
from anyarch.spec.reference import Reference
from anyarch.testing.registry import FakeRegistry

from .conftest import add_multi, write_layout

ARM64 = Platform.parse("linux/arm64")


@pytest.fixture
def other():
    with FakeRegistry() as registry:
        yield registry


def connect():
    return Registry(Hosts(), Credentials({"HOME": "/nonexistent"}))


def make(*sources, **more):
    return create(CreateRequest(sources=tuple(map(str, sources)), **more), connect=connect)


def entries(result):
    return [(e.platform.architecture if e.platform else "", e.digest) for e, _ in result.entries]


def test_sources_are_joined_in_order_and_indexes_taken_apart(fake):
    add_multi(fake)
    one = fake.add_image("lib/app", "one", [b"1"], architecture="riscv64")
    result = make(
        f"{fake.address}/lib/app:1", f"{fake.address}/lib/app:one", tags=(f"{fake.address}/lib/app:2",)
    )
    assert [architecture for architecture, _ in entries(result)] == ["amd64", "arm", "riscv64"]
    assert fake.tags["lib/app", "2"] == result.blob.digest
    assert json.loads(result.blob.raw)["manifests"][2]["digest"] == one.digest


def test_one_index_with_nothing_to_change_keeps_its_bytes(fake):
    index = add_multi(fake, attested=True)
    result = make(
        f"{fake.address}/lib/app:1", tags=(f"{fake.address}/lib/app:2", f"{fake.address}/lib/app:3")
    )
    assert result.blob.raw == index.raw
    assert fake.tags["lib/app", "2"] == fake.tags["lib/app", "3"] == index.digest


def test_the_same_manifest_twice_is_one_entry_with_the_annotations_of_both(fake):
    one = fake.add_image("lib/app", "one", [b"1"])
    described = {"digest": one.digest, "annotations": {"a": "b"}}
    result = make(f"{fake.address}/lib/app:one", json.dumps(described), dry_run=True)
    (entry,) = json.loads(result.blob.raw)["manifests"]
    assert entry["annotations"] == {"a": "b"}
    assert entry["platform"] == {"architecture": "amd64", "os": "linux"}


def test_docker_manifests_alone_give_a_manifest_list(fake):
    for name in ("a", "b"):
        fake.add_image("lib/app", name, [name.encode()], docker=True)
    result = make(f"{fake.address}/lib/app:a", f"{fake.address}/lib/app:b", dry_run=True)
    assert result.blob.media_type == media.DOCKER_INDEX
    noted = make(f"{fake.address}/lib/app:a", dry_run=True, annotations=(Annotation("k", "v", "index"),))
    assert "annotations are left out" in noted.warnings[0]
    fake.add_image("lib/app", "c", [b"c"])
    mixed = make(f"{fake.address}/lib/app:a", f"{fake.address}/lib/app:c", dry_run=True)
    assert mixed.blob.media_type == media.OCI_INDEX


def test_a_single_manifest_becomes_an_index_or_is_copied_as_it_is(fake):
    one = fake.add_image("lib/app", "one", [b"1"])
    target = (f"{fake.address}/lib/app:2",)
    assert make(f"{fake.address}/lib/app:one", tags=target).blob.media_type == media.OCI_INDEX
    assert make(f"{fake.address}/lib/app:one", tags=target, prefer_index=False).blob == one
    assert fake.tags["lib/app", "2"] == one.digest
    with pytest.raises(NoMatchingPlatform, match="does not match any of the provided"):
        make(f"{fake.address}/lib/app:one", prefer_index=False, dry_run=True, platforms=(ARM64,))


def test_a_platform_keeps_its_attestation_and_the_others_go(fake):
    add_multi(fake, attested=True)
    wanted = (Platform.parse("linux/amd64"),)
    result = make(f"{fake.address}/lib/app:1", platforms=wanted, dry_run=True)
    assert [architecture for architecture, _ in entries(result)] == ["amd64", "unknown"]
    with pytest.raises(NoMatchingPlatform, match="none of the manifests match"):
        make(f"{fake.address}/lib/app:1", platforms=(ARM64,), dry_run=True)


def test_append_puts_what_the_tag_has_before_the_sources(fake):
    add_multi(fake)
    fake.add_image("lib/app", "one", [b"1"], architecture="riscv64")
    tag = f"{fake.address}/lib/app:1"
    make(f"{fake.address}/lib/app:one", tags=(tag,), append=True)
    made = json.loads(fake.manifests["lib/app", fake.tags["lib/app", "1"]].raw)
    assert [e["platform"]["architecture"] for e in made["manifests"]] == ["amd64", "arm", "riscv64"]


def test_annotations_go_to_the_index_and_to_the_entries(fake):
    add_multi(fake)
    notes = (
        Annotation("i", "1", "index"),
        Annotation("d", "2", "manifest-descriptor"),
        Annotation("p", "3", "manifest-descriptor", Platform.parse("linux/arm/v7")),
    )
    made = json.loads(make(f"{fake.address}/lib/app:1", annotations=notes, dry_run=True).blob.raw)
    assert made["annotations"] == {"i": "1"}
    assert [e["annotations"] for e in made["manifests"]] == [{"d": "2"}, {"d": "2", "p": "3"}]
    for kind in ("manifest", "index-descriptor"):
        with pytest.raises(UsageError, match=f'"{kind}" annotations are'):
            make(f"{fake.address}/lib/app:1", annotations=(Annotation("k", "v", kind),), dry_run=True)


def test_blobs_are_mounted_within_a_registry_and_copied_between_registries(fake, other):
    add_multi(fake, attested=True)
    make(f"{fake.address}/lib/app:1", tags=(f"{fake.address}/lib/mine:1", f"{other.address}/lib/far:1"))
    assert fake.count("PUT", "/uploads/") == 0
    have = {(digest, raw) for (name, digest), raw in fake.blobs.items() if name == "lib/app"}
    assert {(digest, raw) for (name, digest), raw in fake.blobs.items() if name == "lib/mine"} == have
    assert {(digest, raw) for (_, digest), raw in other.blobs.items()} == have
    assert other.tags["lib/far", "1"] == fake.tags["lib/mine", "1"] == fake.tags["lib/app", "1"]
    other.clear_log()
    make(f"{fake.address}/lib/app:1", tags=(f"{other.address}/lib/far:2",))
    assert other.count("", "/uploads/") == 0


@pytest.mark.parametrize("has_api", [True, False])
def test_signatures_go_along_and_attestations_become_entries(fake, other, client, has_api):
    fake.supports_referrers = other.supports_referrers = has_api
    image = fake.add_image("lib/app", "one", [b"1"])
    empty = Descriptor(media.EMPTY_JSON, fake.add_blob("lib/app", b"{}"), 2)
    made = []
    for kind in (
        "application/vnd.docker.attestation.manifest.v1+json",
        "application/vnd.dev.sigstore.bundle.v0.3+json",
        "application/vnd.example.unrelated",
    ):
        manifest = Manifest(
            schema_version=2,
            media_type=media.OCI_MANIFEST,
            artifact_type=kind,
            config=empty,
            layers=(empty,),
            subject=image.descriptor(),
        )
        made.append(Blob.of(media.OCI_MANIFEST, encode(manifest)))
        client.push_manifest(Reference.parse(f"{fake.address}/lib/app"), made[-1])
    result = make(f"{fake.address}/lib/app:one", tags=(f"{other.address}/lib/far:1",))
    assert [architecture for architecture, _ in entries(result)] == ["amd64", "unknown"]
    notes = json.loads(result.blob.raw)["manifests"][1]["annotations"]
    assert notes["vnd.docker.reference.digest"] == image.digest
    there = {digest for name, digest in other.manifests if name == "lib/far"}
    assert {made[0].digest, made[1].digest} <= there
    assert made[2].digest not in there
    ref = Reference.parse(f"{other.address}/lib/far")
    found = {d.digest for d in client.referrers(ref, image.digest)}
    assert {made[0].digest, made[1].digest} <= found


def test_layouts_are_sources_and_targets(fake, tmp_path):
    index = add_multi(fake, attested=True)
    write_layout(tmp_path / "in", fake, "lib/app", index.descriptor())
    out = f"oci-layout://{tmp_path}/out:2"
    make(f"oci-layout://{tmp_path}/in", tags=(out, f"{fake.address}/lib/back:1"))
    assert make(out, dry_run=True).blob.raw == index.raw
    assert fake.tags["lib/back", "1"] == index.digest
    make(out, tags=(f"oci-layout://{tmp_path}/out:3",), platforms=(Platform.parse("linux/amd64"),))
    assert make(out, dry_run=True).blob.raw == index.raw  # the other image of the layout stays
    assert len(json.loads((tmp_path / "out/index.json").read_text())["manifests"]) == 2


def test_what_makes_no_sense_is_refused(fake, tmp_path):
    image = fake.add_image("lib/app", "one", [b"1"])
    name = f"{fake.address}/lib/app:one"
    for sources, tags, words in (
        ((), (name,), "no sources specified"),
        ((name,), (), "can't push with no tags specified"),
        ((image.digest,), (name, f"{fake.address}/lib/other:1"), "multiple repositories specified"),
        (('{"mediaType": "x"}',), (name,), "digest is required"),
        (('{"schemaVersion": 2, "digest": "x"}',), (name,), "got a manifest or index"),
        (("sha256:12",), (name,), "valid sources are digests, references and descriptors"),
        ((json.dumps({"digest": image.digest, "size": 1}),), (name,), "invalid size mismatch"),
    ):
        with pytest.raises(UsageError, match=words):
            make(*sources, tags=tags)
    fake.add_manifest(
        "lib/app", Blob.of("application/json", b'{"schemaVersion": 1, "fsLayers": []}'), tag="v1"
    )
    with pytest.raises(UnsupportedMedia, match="schema 1"):
        make(f"{fake.address}/lib/app:v1", dry_run=True)
