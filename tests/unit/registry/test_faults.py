"""Whole images up and down through a registry whose every request may go wrong, by a seed.

Claims: what can be repeated is repeated until it is through; what cannot ends with one of our errors; a blob
that the registry has acknowledged is not sent again; what does not have its digest reaches no store.
"""

from __future__ import annotations

import random
import re
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from anyarch.errors import AnyarchError, DigestMismatch
from anyarch.http.client import HttpClient
from anyarch.http.retry import RetryPolicy
from anyarch.registry.client import Registry
from anyarch.registry.credentials import Credential, Credentials
from anyarch.registry.hosts import Hosts
from anyarch.spec import media
from anyarch.spec.digest import Digest
from anyarch.spec.oci import Blob, Descriptor, Index, Manifest, decode, encode
from anyarch.spec.platform import Platform
from anyarch.spec.reference import Reference
from anyarch.store.store import Store
from anyarch.testing.registry import FakeRegistry, Fault

PATIENT = RetryPolicy(attempts=12, budget_s=60, first_delay_s=0.001, max_delay_s=0.01, refusal_delay_s=0.001)
PASSING = (
    {"status": 429, "headers": {"Retry-After": "0"}},
    {"status": 500},
    {"status": 503},
    {"status": 504},
    {"drop": True},
    {"truncate": 700},
    {"drop_body_after": 900},
    {"delay_s": 0.005},
    {"expire_tokens": True},
    {"bytes_per_s": 4_000_000.0},
)
LASTING = (
    {"corrupt": True},
    {"digest_header": Digest.of(b"another")},
    {"status": 403},
    {"status": 404},
)


class Weather:
    """Draws faults for requests, by a seed."""

    def __init__(self, seed, rate, kinds):
        self.random = random.Random(seed)
        self.rate = rate
        self.kinds = kinds
        self.lock = threading.Lock()

    def __call__(self, method, path):
        with self.lock:
            if self.random.random() >= self.rate:
                return None
            values = dict(self.random.choice(self.kinds))
        return Fault(method, re.compile(""), 0, 1, **values)


class Picture:
    """An index of two platforms with a shared layer, in memory."""

    def __init__(self, seed):
        source = random.Random(seed)
        self.blobs = {}
        self.manifests = []
        shared = self._blob(source.randbytes(30_000), media.OCI_LAYER_TAR)
        for name in ("linux/amd64", "linux/arm64"):
            layers = [shared] + [
                self._blob(source.randbytes(source.randrange(1, 20_000)), media.OCI_LAYER_TAR)
                for _ in range(3)
            ]
            config = self._blob(source.randbytes(200), media.OCI_CONFIG)
            manifest = Manifest(
                schema_version=2, media_type=media.OCI_MANIFEST, config=config, layers=tuple(layers)
            )
            self.manifests.append((Platform.parse(name), Blob.of(media.OCI_MANIFEST, encode(manifest))))
        entries = tuple(blob.descriptor(platform=platform.spec()) for platform, blob in self.manifests)
        self.index = Blob.of(
            media.OCI_INDEX,
            encode(Index(schema_version=2, media_type=media.OCI_INDEX, manifests=entries)),
        )

    def _blob(self, raw, media_type):
        descriptor = Descriptor(media_type, Digest.of(raw), len(raw))
        self.blobs[descriptor.digest] = (descriptor, raw)
        return descriptor

    def push(self, client, ref, directory):
        def send(item):
            descriptor, raw = item
            path = directory / Digest(descriptor.digest).hex
            path.write_bytes(raw)
            client.push_blob(ref, descriptor, lambda: path.open("rb"), mount_from="lib/elsewhere")

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(send, self.blobs.values()))
        for _, blob in self.manifests:
            client.push_manifest(ref, blob)
        client.push_manifest(ref, self.index, tag=ref.tag)


@pytest.fixture
def store(tmp_path):
    with Store.open(tmp_path / "store") as store:
        yield store


@pytest.fixture
def connect():
    made = []

    def make():
        http = HttpClient(env={}, retry=PATIENT, idle_timeout_s=5)
        made.append(http)
        return Registry(Hosts(), Anywhere({"HOME": "/nonexistent"}), http=http)

    yield make
    for http in made:
        http.close()


class Anywhere(Credentials):
    """The same credential for whatever port the registry gets."""

    def get(self, domain, repository=""):
        return Credential("me", "secret")


def sent_blobs(fake):
    """Digest by digest, how many uploads were acknowledged as complete."""
    counts = {}
    for request in fake.requests("PUT", r"/uploads/", status=201):
        digest = re.search(r"digest=(sha256:[0-9a-f]+)", request.path)[1]
        counts[digest] = counts.get(digest, 0) + 1
    return counts


def pull_into(store, client, ref):
    """Every part of the image into the store, as a build does it."""
    index = client.manifest(ref)
    store.content.put(index.raw)
    for entry in decode(Index, index.raw).manifests:
        manifest = client.manifest(ref, Digest(entry.digest))
        store.content.put(manifest.raw)
        parsed = decode(Manifest, manifest.raw)
        for descriptor in (parsed.config, *parsed.layers):
            if store.content.has(descriptor.digest):
                continue
            with store.content.writer(expected=descriptor.digest, size=descriptor.size) as writer:
                client.fetch(ref, descriptor, writer, verify=False)
                writer.commit()
    return index


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("auth", ["none", "token"])
def test_what_passes_by_itself_stops_no_transfer(connect, store, tmp_path, seed, auth):
    picture = Picture(seed)
    with FakeRegistry(auth=auth, users={"me": "secret"}) as fake:
        fake.supports_mounts = bool(seed % 2)
        fake.supports_ranges = bool(seed % 3)
        fake.draw_fault = Weather(seed, 0.25, PASSING)
        ref = Reference.parse(f"{fake.address}/lib/app:1")
        picture.push(connect(), ref, tmp_path)
        assert all(fake.blobs["lib/app", digest] == raw for digest, (_, raw) in picture.blobs.items())
        assert set(sent_blobs(fake).values()) <= {1}
        assert pull_into(store, connect(), ref) == picture.index
    assert store.verify() == []
    assert all(store.content.read(digest) == raw for digest, (_, raw) in picture.blobs.items())


@pytest.mark.parametrize("seed", range(20))
def test_what_does_not_pass_ends_in_an_error_and_leaves_nothing_unverified(connect, store, tmp_path, seed):
    picture = Picture(seed)
    with FakeRegistry() as fake:
        ref = Reference.parse(f"{fake.address}/lib/app:1")
        fake.draw_fault = Weather(seed, 0.08, LASTING + PASSING)
        outcomes = []
        for work in (
            lambda: picture.push(connect(), ref, tmp_path),
            lambda: pull_into(store, connect(), ref),
        ):
            try:
                work()
                outcomes.append(None)
            except AnyarchError as error:
                outcomes.append(error)
        if outcomes[0] is None:
            assert fake.manifests["lib/app", picture.index.digest] == picture.index
        if outcomes[1] is None:
            assert outcomes[0] is None or ("lib/app", "1") in fake.tags
        # Finished work is kept: what is there already is not sent when the fault is gone.
        fake.draw_fault = None
        had = {digest for repository, digest in fake.blobs if repository == "lib/app"}
        fake.clear_log()
        picture.push(connect(), ref, tmp_path)
        assert not set(sent_blobs(fake)) & had
        assert pull_into(store, connect(), ref) == picture.index
    assert store.verify() == []
    assert all(path.stat().st_size for path in (tmp_path / "store/blobs/sha256").iterdir())
    assert list((tmp_path / "store/ingest").iterdir()) == []


def test_wrong_bytes_are_told_as_such_and_are_not_kept(connect, store):
    with FakeRegistry() as fake:
        raw = b"x" * 5000
        fake.add_image("lib/app", "1", [raw])
        fake.fault("GET", Digest.of(raw), corrupt=True, times=9)
        ref = Reference.parse(f"{fake.address}/lib/app:1")
        descriptor = Descriptor(media.OCI_LAYER_TAR, Digest.of(raw), len(raw))
        with pytest.raises(DigestMismatch), store.content.writer(expected=descriptor.digest) as writer:
            connect().fetch(ref, descriptor, writer)
            writer.commit()
    assert not store.content.has(descriptor.digest)


def test_retry_after_is_waited_for(connect, tmp_path):
    with FakeRegistry() as fake:
        fake.add_image("lib/app", "1", [b"x"])
        fake.fault("HEAD", "manifests", status=429, headers={"Retry-After": "1"})
        client = connect()
        waited = []
        client._http._on_retry = waited.append
        client.resolve(Reference.parse(f"{fake.address}/lib/app:1"))
    assert re.search(r"429 .*; trying again in 1\.\d s", waited[0])
