from __future__ import annotations

import io
import random
import subprocess
import sys
import threading

import pytest

from anyarch.errors import (
    Canceled,
    DigestMismatch,
    ManifestNotFound,
    RegistryError,
    Unauthorized,
    UnsupportedMedia,
)
from anyarch.registry.credentials import Credential, Credentials
from anyarch.registry.hosts import HostConfig, Hosts
from anyarch.spec import media
from anyarch.spec.digest import Digest
from anyarch.spec.oci import Blob, Descriptor, ImageConfig, Manifest, decode
from anyarch.spec.reference import Reference
from anyarch.testing.registry import FakeRegistry

from ..http.servers import make_certificate
from .conftest import pull

BIG = random.Random(1).randbytes(5 << 20)


def reference(fake, text="lib/tiny:latest"):
    return Reference.parse(f"{fake.address}/{text}")


def descriptor_of(raw, media_type=media.OCI_LAYER_TAR):
    return Descriptor(media_type, Digest.of(raw), len(raw))


def test_importing_the_client_loads_no_network_module():
    code = (
        "import sys, anyarch.registry.client, anyarch.registry.hosts, anyarch.registry.credentials\n"
        "heavy = {'http.client', 'ssl', 'socket', 'subprocess', 'tomllib', 'email'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


# resolve
# ------------------------------------------------------------------------------------------------------


def test_a_tag_is_resolved_by_one_head(client, fake):
    blob = fake.add_image("lib/tiny", "latest", [b"layer"])
    assert client.resolve(reference(fake)) == (blob.digest, media.OCI_MANIFEST, len(blob.raw))
    assert [(r.method, r.path) for r in fake.log] == [("HEAD", "/v2/lib/tiny/manifests/latest")]


def test_a_registry_without_digest_header_is_asked_for_the_document(client, fake):
    blob = fake.add_image("lib/tiny", "latest")
    fake.sends_digest_header = False
    assert client.resolve(reference(fake)) == (blob.digest, media.OCI_MANIFEST, len(blob.raw))
    assert fake.count("GET", "manifests") == 1


def test_a_registry_without_head_is_asked_by_get(client, fake):
    blob = fake.add_image("lib/tiny", "latest")
    fake.supports_head = False
    assert client.resolve(reference(fake))[0] == blob.digest


def test_a_missing_tag_is_not_found(client, fake):
    with pytest.raises(ManifestNotFound) as caught:
        client.resolve(reference(fake))
    assert caught.value.message == f"{fake.address}/lib/tiny:latest: not found"
    assert fake.address in caught.value.hint


def test_a_digest_that_the_registry_answers_with_another_is_refused(client, fake):
    blob = fake.add_image("lib/tiny", "latest")
    fake.fault("HEAD", "manifests", digest_header=Digest.of(b"other"))
    with pytest.raises(DigestMismatch):
        client.resolve(reference(fake).with_digest(blob.digest))


@pytest.mark.parametrize("status", [500, 502, 503, 429])
def test_a_flaky_registry_is_asked_again(client, fake, status):
    fake.add_image("lib/tiny", "latest")
    fake.fault("HEAD", "manifests", status=status, times=3)
    client.resolve(reference(fake))
    assert fake.count("HEAD") == 4


def test_a_rate_limit_that_stays_says_when_to_come_back(client, fake):
    fake.fault("", "", status=429, times=100, headers={"Retry-After": "3600"})
    with pytest.raises(RegistryError, match=r"rate limited \(try again in 3600 s\)") as caught:
        client.resolve(reference(fake))
    assert "mirror" in caught.value.hint


def test_a_refused_connection_names_the_host_and_what_to_do(client):
    with pytest.raises(RegistryError) as caught:
        client.resolve(Reference.parse("127.0.0.1:1/lib/tiny"))
    assert caught.value.message == (
        "127.0.0.1:1/lib/tiny:latest: could not be resolved: 127.0.0.1:1: connection refused"
    )
    assert "check the network" in caught.value.hint
    assert "mirror" in caught.value.hint


# manifests
# ----------------------------------------------------------------------------------------------------


def test_a_manifest_comes_with_its_exact_bytes(client, fake):
    blob = fake.add_image("lib/tiny", "latest", [b"layer"])
    assert client.manifest(reference(fake)) == blob
    assert client.manifest(reference(fake), blob.digest) == blob


def test_an_altered_manifest_is_refused(client, fake):
    blob = fake.add_image("lib/tiny", "latest")
    fake.fault("GET", "manifests", corrupt=True, times=9)
    with pytest.raises(DigestMismatch):
        client.manifest(reference(fake))
    with pytest.raises(DigestMismatch):
        client.manifest(reference(fake), blob.digest)


@pytest.mark.parametrize("media_type", sorted(media.DOCKER_SCHEMA1))
def test_schema_1_is_refused(client, fake, media_type):
    fake.add_manifest("lib/tiny", Blob.of(media_type, b'{"schemaVersion": 1, "fsLayers": []}'), tag="latest")
    with pytest.raises(UnsupportedMedia, match="schema 1"):
        client.resolve(reference(fake))
    with pytest.raises(UnsupportedMedia, match="schema 1"):
        client.manifest(reference(fake))


def test_the_documents_own_media_type_is_used_when_the_header_says_nothing(client, fake):
    blob = fake.add_image("lib/tiny", None, docker=True)
    fake.add_manifest("lib/tiny", Blob("text/plain", blob.raw, blob.digest), tag="latest")
    assert client.manifest(reference(fake)).media_type == media.DOCKER_MANIFEST
    assert client.resolve(reference(fake))[1] == media.DOCKER_MANIFEST


def test_a_document_that_is_index_and_manifest_at_once_is_refused(client, fake):
    raw = b'{"schemaVersion":2,"manifests":[],"layers":[]}'
    fake.add_manifest("lib/tiny", Blob.of(media.OCI_MANIFEST, raw), tag="latest")
    with pytest.raises(UnsupportedMedia, match="ambiguous"):
        client.manifest(reference(fake))


def test_an_index_under_the_type_of_a_manifest_is_refused(client, fake):
    fake.add_manifest(
        "lib/tiny", Blob.of(media.OCI_MANIFEST, b'{"schemaVersion":2,"manifests":[]}'), tag="latest"
    )
    with pytest.raises(UnsupportedMedia, match="media type"):
        client.manifest(reference(fake))


def test_text_that_is_no_manifest_is_refused(client, fake):
    fake.add_manifest("lib/tiny", Blob.of(media.OCI_MANIFEST, b"<html>"), tag="latest")
    with pytest.raises(UnsupportedMedia):
        client.manifest(reference(fake))


# blobs
# --------------------------------------------------------------------------------------------------------


def test_a_blob_is_streamed_with_progress(client, fake):
    fake.add_blob("lib/tiny", BIG)
    seen: list[int] = []
    assert pull(client, reference(fake), descriptor_of(BIG), on_progress=seen.append) == BIG
    assert sum(seen) == len(BIG)
    assert len(seen) > 3


def test_a_config_is_read(client, fake):
    manifest = decode(Manifest, fake.add_image("lib/tiny", "latest", architecture="riscv64").raw)
    raw = client.read(reference(fake), manifest.config)
    assert decode(ImageConfig, raw).architecture == "riscv64"


def test_a_config_inside_its_descriptor_needs_no_request(client, fake):
    descriptor = Descriptor(media.OCI_CONFIG, Digest.of(b"{}"), 2, data="e30=")
    assert client.read(reference(fake), descriptor) == b"{}"
    assert fake.log == []


def test_wrong_inline_data_is_not_believed(client, fake):
    fake.add_blob("lib/tiny", b"{}")
    descriptor = Descriptor(media.OCI_CONFIG, Digest.of(b"{}"), 2, data="e31=")
    assert client.read(reference(fake), descriptor) == b"{}"


def test_a_broken_download_goes_on_where_it_stopped(client, fake):
    fake.add_blob("lib/tiny", BIG)
    fake.fault("GET", "blobs", truncate=1 << 20)
    fake.fault("GET", "blobs", truncate=1 << 20)
    assert pull(client, reference(fake), descriptor_of(BIG)) == BIG
    ranges = [r.headers.get("range") for r in fake.requests("GET", "blobs")]
    assert ranges == [None, "bytes=1048576-", "bytes=2097152-"]


def test_a_broken_download_goes_on_without_range_support(client, fake):
    fake.add_blob("lib/tiny", BIG)
    fake.supports_ranges = False
    fake.fault("GET", "blobs", truncate=3 << 20)
    seen: list[int] = []
    assert pull(client, reference(fake), descriptor_of(BIG), on_progress=seen.append) == BIG
    assert sum(seen) == len(BIG)


def test_progress_renews_the_patience(client, fake):
    fake.add_blob("lib/tiny", BIG)
    fake.fault("GET", "blobs", truncate=1 << 18, times=15)
    assert pull(client, reference(fake), descriptor_of(BIG)) == BIG


def test_a_download_without_progress_is_given_up(client, fake):
    fake.add_blob("lib/tiny", BIG)
    fake.fault("GET", "blobs", truncate=0, times=1000)
    with pytest.raises(RegistryError) as caught:
        pull(client, reference(fake), descriptor_of(BIG))
    assert "could not be downloaded" in caught.value.message
    assert fake.count("GET", "blobs") <= 5


def test_altered_bytes_are_refused(client, fake):
    fake.add_blob("lib/tiny", BIG)
    fake.fault("GET", "blobs", corrupt=True)
    with pytest.raises(DigestMismatch, match="digest mismatch"):
        pull(client, reference(fake), descriptor_of(BIG))


@pytest.mark.parametrize("change", [-1, 1])
def test_a_blob_of_another_size_is_refused(client, fake, change):
    digest = fake.add_blob("lib/tiny", BIG)
    with pytest.raises(DigestMismatch, match="announced"):
        pull(client, reference(fake), Descriptor(media.OCI_LAYER_TAR, digest, len(BIG) + change))


def test_a_missing_blob_says_which(client, fake):
    with pytest.raises(ManifestNotFound) as caught:
        pull(client, reference(fake), descriptor_of(BIG))
    assert f"layer {Digest.of(BIG).short}: not found" in caught.value.message


def test_a_redirect_to_storage_is_followed_and_resumed(client, fake):
    fake.add_blob("lib/tiny", BIG)
    fake.redirect_blobs = "localhost"
    fake.fault("GET", "/storage/", truncate=1 << 20)
    assert pull(client, reference(fake), descriptor_of(BIG)) == BIG
    assert fake.requests("GET", "/storage/")[1].headers["range"] == "bytes=1048576-"


def test_a_foreign_layer_comes_from_its_url(client, fake, second):
    digest = second.add_blob("elsewhere", b"foreign")
    url = f"{second.url}/v2/elsewhere/blobs/{digest}"
    descriptor = Descriptor(media.DOCKER_FOREIGN_GZIP, digest, 7, urls=("http://127.0.0.1:1/none", url))
    assert pull(client, reference(fake), descriptor) == b"foreign"


def test_an_empty_blob_is_fetched(client, fake):
    fake.add_blob("lib/tiny", b"")
    assert pull(client, reference(fake), descriptor_of(b"")) == b""


def test_cancel_stops_a_download(client, fake):
    fake.add_blob("lib/tiny", BIG)
    cancel = threading.Event()
    with pytest.raises(Canceled):
        client.fetch(
            reference(fake),
            descriptor_of(BIG),
            io.BytesIO(),
            on_progress=lambda _: cancel.set(),
            cancel=cancel,
        )


def test_many_threads_share_the_connections(client, fake):
    blobs = [random.Random(n).randbytes(200_000) for n in range(20)]
    for blob in blobs:
        fake.add_blob("lib/tiny", blob)
    found: dict[int, bytes] = {}

    def run(number):
        found[number] = pull(client, reference(fake), descriptor_of(blobs[number]))

    threads = [threading.Thread(target=run, args=(n,)) for n in range(len(blobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[n] for n in range(len(blobs))] == blobs
    assert fake.connections <= 8


def test_tags_are_listed_over_all_pages(client, fake):
    for n in range(7):
        fake.add_image("lib/tiny", f"v{n}")
    fake.page_size = 3
    assert client.tags(reference(fake)) == [f"v{n}" for n in range(7)]


# mirrors
# ------------------------------------------------------------------------------------------------------


@pytest.fixture
def mirrored(connect, fake, second):
    """`fake` is the registry, `second` its mirror; the reference has the registry's name."""
    return connect(Hosts({fake.address: HostConfig(mirrors=(second.address,))}))


def test_a_mirror_goes_first(mirrored, fake, second):
    blob = second.add_image("lib/tiny", "latest", [b"layer"])
    assert mirrored.resolve(reference(fake))[0] == blob.digest
    assert pull(mirrored, reference(fake), descriptor_of(b"layer")) == b"layer"
    assert fake.log == []
    assert second.log[0].path == f"/v2/lib/tiny/manifests/latest?ns={fake.address}"


@pytest.mark.parametrize("status", [404, 401, 403, 500, 503, 429, 400])
def test_what_a_mirror_refuses_comes_from_the_registry(mirrored, fake, second, status):
    blob = fake.add_image("lib/tiny", "latest", [b"layer"])
    second.fault("", "", status=status, times=100)
    assert mirrored.resolve(reference(fake))[0] == blob.digest
    assert mirrored.manifest(reference(fake)) == blob
    assert pull(mirrored, reference(fake), descriptor_of(b"layer")) == b"layer"


def test_a_dead_mirror_is_asked_once(connect, fake):
    fake.add_image("lib/tiny", "latest", [b"layer"])
    client = connect(Hosts({fake.address: HostConfig(mirrors=("127.0.0.1:1",))}))
    for _ in range(3):
        client.resolve(reference(fake))
    assert set(client._shunned) == {"127.0.0.1:1"}


def test_a_mirror_with_wrong_bytes_is_passed_by(mirrored, fake, second):
    blob = fake.add_image("lib/tiny", "latest", [b"layer"])
    second.add_image("lib/tiny", "latest", [b"layer"])
    second.fault("GET", "manifests", corrupt=True)
    assert mirrored.manifest(reference(fake), blob.digest) == blob


def test_a_download_that_a_mirror_cannot_finish_goes_on_at_the_registry(mirrored, fake, second):
    fake.add_blob("lib/tiny", BIG)
    second.add_blob("lib/tiny", BIG)
    second.fault("GET", "blobs", truncate=1 << 20)
    second.fault("GET", "blobs", drop=True, times=1000)
    assert pull(mirrored, reference(fake), descriptor_of(BIG)) == BIG
    assert fake.requests("GET", "blobs")[0].headers["range"] == "bytes=1048576-"


def test_the_error_lists_every_place_with_its_reason(connect, fake):
    client = connect(Hosts({"no-such-host.invalid": HostConfig(mirrors=("127.0.0.1:1", fake.address))}))
    with pytest.raises(RegistryError) as caught:
        client.resolve(Reference.parse("no-such-host.invalid/library/alpine"))
    assert caught.value.message == (
        "no-such-host.invalid/library/alpine:latest: could not be resolved: 127.0.0.1:1: connection refused; "
        f"{fake.address}: not found; no-such-host.invalid: name lookup failed"
    )
    assert type(caught.value) is RegistryError


def test_what_no_place_has_is_not_found(mirrored, fake):
    with pytest.raises(ManifestNotFound, match=r"lib/tiny:latest: not found$"):
        mirrored.resolve(reference(fake))


def test_a_mirror_may_have_a_path(connect, fake, second):
    blob = second.add_image("proxy/hub/lib/tiny", "latest")
    client = connect(Hosts({fake.address: HostConfig(mirrors=(f"{second.address}/proxy/hub",))}))
    assert client.resolve(reference(fake))[0] == blob.digest


def test_a_push_does_not_go_to_the_mirror(mirrored, fake, second):
    assert mirrored.push_blob(reference(fake), descriptor_of(b"x"), lambda: io.BytesIO(b"x"))
    assert second.log == []


# plain HTTP and TLS
# -------------------------------------------------------------------------------------------


def test_a_plain_registry_asked_by_https_gives_the_setting(connect, fake):
    client = connect(Hosts({fake.address: HostConfig(http=False)}))
    with pytest.raises(RegistryError, match="speaks plain HTTP") as caught:
        client.resolve(reference(fake))
    assert caught.value.hint == (f'say so in the configuration file: [registry."{fake.address}"] http = true')


def test_an_insecure_registry_is_reached_by_plain_http(connect, fake):
    blob = fake.add_image("lib/tiny", "latest")
    client = connect(Hosts({}).with_insecure(fake.address))
    assert client.resolve(reference(fake))[0] == blob.digest
    assert client.manifest(reference(fake)) == blob
    assert client.push_blob(reference(fake), descriptor_of(b"x"), lambda: io.BytesIO(b"x"))


def test_a_tls_registry_asked_by_plain_http_gives_the_setting(client, fake):
    said = b"Client sent an HTTP request to an HTTPS server."  # what Go's server answers
    fake.fault("", "", status=400, times=9, body=said)
    with pytest.raises(RegistryError, match="speaks HTTPS, not plain HTTP") as caught:
        client.manifest(reference(fake))
    assert f'[registry."{fake.address}"] http = false' in caught.value.hint


def test_a_tls_registry_is_used_with_its_ca(connect, tmp_path):
    certificate = make_certificate(tmp_path)
    with FakeRegistry(tls=certificate, auth="token", users={"me": "x"}, anonymous_pull=True) as fake:
        fake.add_image("lib/tiny", "latest", [BIG])
        config = HostConfig(http=False, ca=(certificate[0],))
        assert pull(connect(Hosts({fake.address: config})), reference(fake), descriptor_of(BIG)) == BIG
        credentials = Credentials({}, fixed={fake.address: Credential("me", "x")})
        client = connect(Hosts().with_insecure(fake.address), credentials)
        raw = random.Random(9).randbytes(3 << 20)
        assert client.push_blob(reference(fake), descriptor_of(raw), lambda: io.BytesIO(raw))
        with pytest.raises(RegistryError, match="certificate is not trusted") as caught:
            connect(Hosts({fake.address: HostConfig(http=False)})).resolve(reference(fake))
        assert "ca = [" in caught.value.hint


def test_access_denied_names_the_login(client, fake):
    fake.fault("", "", status=403, times=9, body={"errors": [{"code": "DENIED", "message": "no way"}]})
    with pytest.raises(Unauthorized) as caught:
        client.resolve(reference(fake))
    assert "access denied" in caught.value.message
    assert f"anyarch login {fake.address}" in caught.value.hint


def test_the_registrys_own_words_are_passed_on(client, fake):
    fake.fault(
        "", "", status=400, times=9, body={"errors": [{"code": "NAME_INVALID", "message": "invalid name"}]}
    )
    with pytest.raises(RegistryError, match="400 Bad Request: invalid name"):
        client.manifest(reference(fake))
