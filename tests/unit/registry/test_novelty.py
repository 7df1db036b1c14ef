from __future__ import annotations

import io

import pytest

from anyarch.registry.novelty import Novelty
from anyarch.spec import media
from anyarch.spec.digest import Digest
from anyarch.spec.oci import Descriptor
from anyarch.spec.reference import Reference


@pytest.fixture
def ref(fake):
    return Reference.parse(f"{fake.address}/lib/tiny:latest")


@pytest.fixture
def send(client, ref):
    def run(raw):
        descriptor = Descriptor(media.OCI_LAYER_TAR, Digest.of(raw), len(raw))
        return client.push_blob(ref, descriptor, lambda: io.BytesIO(raw))

    return run


BLOBS = [b"%d" % n for n in range(60)]


def test_small_blobs_of_a_new_repository_are_sent_unasked_after_sixteen_misses(fake, send):
    assert [send(raw) for raw in BLOBS] == [True] * 60
    assert fake.count("HEAD", "/blobs/") == 16
    assert fake.count("GET", "/tags/list") == 1
    assert fake.count("PUT", "/blobs/uploads/", status=201) == 60


def test_large_blobs_are_always_asked_for(fake, send):
    for raw in BLOBS:
        send(raw)
    fake.clear_log()
    send(bytes(1 << 17))
    assert fake.count("HEAD", "/blobs/") == 1


def test_blobs_of_a_known_repository_are_all_asked_for(fake, send):
    fake.add_image("lib/tiny", "latest")
    for raw in BLOBS:
        send(raw)
    assert fake.count("HEAD", "/blobs/") == 60


def test_what_a_broken_push_left_is_found(fake, send):
    for raw in BLOBS[4:40]:  # four of the first were not finished
        fake.add_blob("lib/tiny", raw)
    assert [send(raw) for raw in BLOBS] == [True] * 4 + [False] * 36 + [True] * 20
    assert fake.count("HEAD", "/blobs/") == 60


def test_a_registry_that_lists_no_tags_is_asked_for_every_blob(fake, send):
    fake.fault("GET", "/tags/list", status=404, body=b"no such page")
    for raw in BLOBS:
        send(raw)
    assert fake.count("HEAD", "/blobs/") == 60


def test_one_blob_that_is_found_ends_the_sparing():
    novelty = Novelty()
    for _ in range(16):
        novelty.heard("r", found=False)
    assert novelty.spares("r", 1, lambda: True)
    assert not novelty.spares("other", 1, lambda: True)
    novelty.heard("r", found=True)
    assert not novelty.spares("r", 1, lambda: True)
