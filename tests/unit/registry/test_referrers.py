from __future__ import annotations

import threading

import pytest

from anyarch.spec import media
from anyarch.spec.digest import Digest
from anyarch.spec.oci import Blob, Descriptor, Index, Manifest, decode, encode
from anyarch.spec.reference import Reference

SIGNATURE = "application/vnd.example.signature"
SBOM = "application/vnd.example.sbom"


@pytest.fixture
def ref(fake):
    return Reference.parse(f"{fake.address}/lib/tiny:latest")


@pytest.fixture
def subject(fake):
    return fake.add_image("lib/tiny", "latest", [b"layer"])


def referrer(fake, subject, kind=SIGNATURE, note=""):
    empty = Descriptor(media.EMPTY_JSON, fake.add_blob("lib/tiny", b"{}"), 2)
    manifest = Manifest(
        schema_version=2,
        media_type=media.OCI_MANIFEST,
        artifact_type=kind,
        config=empty,
        layers=(empty,),
        subject=subject.descriptor(),
        annotations={"note": note} if note else None,
    )
    return Blob.of(media.OCI_MANIFEST, encode(manifest))


@pytest.mark.parametrize("has_api", [True, False])
def test_what_was_pushed_with_a_subject_is_found_by_it(fake, client, ref, subject, has_api):
    fake.supports_referrers = has_api
    first, second = referrer(fake, subject), referrer(fake, subject, SBOM, "hello")
    for blob in (first, second):
        client.push_manifest(ref, blob)
    found = {d.digest: d for d in client.referrers(ref, subject.digest)}
    assert set(found) == {first.digest, second.digest}
    assert found[second.digest].artifact_type == SBOM
    assert found[second.digest].annotations == {"note": "hello"}
    assert [d.digest for d in client.referrers(ref, subject.digest, [SIGNATURE])] == [first.digest]


def test_without_the_api_the_list_is_an_index_under_the_tag_of_the_subject(fake, client, ref, subject):
    fake.supports_referrers = False
    client.push_manifest(ref, referrer(fake, subject))
    client.push_manifest(ref, referrer(fake, subject))  # the same again changes nothing
    stored = client.manifest(ref.with_tag(subject.digest.replace(":", "-")))
    assert stored.media_type == media.OCI_INDEX
    assert len(decode(Index, stored.raw).manifests) == 1


def test_with_the_api_no_tag_is_written(fake, client, ref, subject):
    client.push_manifest(ref, referrer(fake, subject))
    assert client.tags(ref) == ["latest"]


def test_nothing_refers_to_what_is_not_there(fake, client, ref):
    for fake.supports_referrers in (True, False):
        assert client.referrers(ref, Digest.of(b"nothing")) == []


def test_long_lists_are_followed(fake, client, ref, subject):
    fake.page_size = 2
    blobs = [referrer(fake, subject, note=str(n)) for n in range(5)]
    for blob in blobs:
        client.push_manifest(ref, blob)
    assert {d.digest for d in client.referrers(ref, subject.digest)} == {b.digest for b in blobs}
    assert len(client.referrers(ref, subject.digest, [SIGNATURE])) == 5


def test_writers_of_the_tag_that_come_together_lose_nothing(fake, connect, ref, subject):
    fake.supports_referrers = False
    blobs = [referrer(fake, subject, note=str(n)) for n in range(6)]
    threads = [
        threading.Thread(target=client.push_manifest, args=(ref, blob))
        for blob, client in zip(blobs, [connect() for _ in blobs], strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # One that read before the last writer wrote may have been overwritten after it looked: it is entered
    # again by whoever pushes next.
    client = connect()
    for blob in blobs:
        client.push_manifest(ref, blob)
    assert {d.digest for d in client.referrers(ref, subject.digest)} == {b.digest for b in blobs}
