from __future__ import annotations

import random

import pytest

from anyarch.errors import DigestMismatch, ManifestNotFound, RegistryError
from anyarch.registry.hosts import HostConfig, Hosts
from anyarch.spec import media
from anyarch.spec.digest import Digest
from anyarch.spec.oci import Descriptor
from anyarch.spec.reference import Reference

BIG = random.Random(3).randbytes(3 << 20)


@pytest.fixture
def ref(fake):
    fake.add_blob("lib/tiny", BIG)
    return Reference.parse(f"{fake.address}/lib/tiny:latest")


def describe(raw=BIG):
    return Descriptor(media.OCI_LAYER_TAR, Digest.of(raw), len(raw))


def read_all(stream):
    with stream:
        return b"".join(iter(lambda: stream.read(1 << 18), b""))


def test_a_stream_gives_the_blob_and_may_be_read_from_anywhere(fake, client, ref):
    assert read_all(client.open(ref, describe())) == BIG
    with client.open(ref, describe()) as stream:
        assert stream.seek(1 << 20) == 1 << 20
        assert stream.read(10) == BIG[1 << 20 : (1 << 20) + 10]
        stream.seek(0)
        assert stream.read(5) == BIG[:5]
        stream.seek(0, 2)
        assert stream.read(5) == b""
    assert fake.requests("GET", "/blobs/")[1].headers["range"] == f"bytes={1 << 20}-"


@pytest.mark.parametrize("ranges", [True, False])
def test_a_broken_connection_goes_on_where_it_broke(fake, client, ref, ranges):
    fake.supports_ranges = ranges
    fake.fault("GET", "/blobs/", truncate=1_000_000, times=2)
    assert read_all(client.open(ref, describe())) == BIG


def test_altered_bytes_are_found_out_unless_the_reader_looks_himself(fake, client, ref):
    fake.fault("GET", "/blobs/", corrupt=True, times=2)
    with pytest.raises(DigestMismatch):
        read_all(client.open(ref, describe()))
    assert read_all(client.open(ref, describe(), verify=False)) != BIG


def test_a_size_that_was_not_announced_is_refused(fake, client, ref):
    wrong = Descriptor(media.OCI_LAYER_TAR, Digest.of(BIG), len(BIG) + 1)
    with pytest.raises(DigestMismatch, match="were announced"):
        read_all(client.open(ref, wrong))


def test_what_is_not_there_is_told(fake, client, ref):
    with pytest.raises(ManifestNotFound):
        read_all(client.open(ref, describe(b"nothing")))
    fake.fault("GET", "/blobs/", status=503, times=99)
    with pytest.raises(RegistryError, match="503"):
        read_all(client.open(ref, describe()))


def test_a_mirror_that_lacks_it_is_passed_by(fake, second, connect, ref):
    hosts = Hosts({fake.address: HostConfig(mirrors=(second.address,))})
    assert read_all(connect(hosts).open(ref, describe())) == BIG
    assert second.count("GET", "/blobs/") == 1
    second.add_blob("lib/tiny", BIG)
    fake.clear_log()
    assert read_all(connect(hosts).open(ref, describe())) == BIG
    assert fake.count("GET") == 0
