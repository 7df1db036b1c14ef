from __future__ import annotations

import io
import random
import threading

import pytest

from anyarch.errors import Canceled, DigestMismatch, ManifestNotFound, RegistryError
from anyarch.registry import push
from anyarch.spec import media
from anyarch.spec.digest import Digest
from anyarch.spec.oci import Blob, Descriptor
from anyarch.spec.reference import Reference

BIG = random.Random(2).randbytes(6 << 20)
UPLOADS = "/blobs/uploads/"


@pytest.fixture
def ref(fake):
    return Reference.parse(f"{fake.address}/lib/tiny:latest")


@pytest.fixture
def send(client, ref, tmp_path):
    """Pushes bytes, from a file or from memory: (whether they were sent, progress in all)."""

    def run(raw=BIG, *, from_file=True, **more):
        path = tmp_path / "blob"
        if not path.exists() or path.read_bytes() != raw:
            path.write_bytes(raw)
        seen: list[int] = []
        sent = client.push_blob(
            ref,
            Descriptor(media.OCI_LAYER_TAR, Digest.of(raw), len(raw)),
            (lambda: path.open("rb")) if from_file else (lambda: io.BytesIO(raw)),
            on_progress=seen.append,
            **more,
        )
        return sent, sum(seen)

    return run


@pytest.mark.parametrize("from_file", [True, False])
def test_a_blob_is_sent_by_one_put(fake, send, from_file):
    assert send(from_file=from_file) == (True, len(BIG))
    assert [r.method for r in fake.log] == ["HEAD", "POST", "PUT"]
    assert fake.blobs["lib/tiny", Digest.of(BIG)] == BIG
    assert fake.connections == 1


def test_a_blob_that_is_there_is_not_sent(fake, send):
    fake.add_blob("lib/tiny", BIG)
    assert send() == (False, 0)
    assert [r.method for r in fake.log] == ["HEAD"]


def test_a_blob_that_was_sent_is_not_even_asked_for_again(fake, send, client, ref):
    send()
    fake.clear_log()
    assert send() == (False, 0)
    assert client.has_blob(ref, Digest.of(BIG))
    assert fake.log == []


def test_has_blob_asks_the_registry(fake, client, ref):
    assert not client.has_blob(ref, Digest.of(BIG))
    fake.add_blob("lib/tiny", BIG)
    assert client.has_blob(ref, Digest.of(BIG))


def test_a_blob_of_another_repository_is_mounted(fake, send):
    fake.add_blob("lib/base", BIG)
    assert send(mount_from="lib/base") == (False, 0)
    assert fake.blobs["lib/tiny", Digest.of(BIG)] == BIG
    assert fake.count("PUT") == 0


@pytest.mark.parametrize("can_mount", [True, False])
def test_a_mount_that_does_not_work_becomes_an_upload_in_the_same_session(fake, send, can_mount):
    fake.supports_mounts = can_mount
    assert send(mount_from="lib/base") == (True, len(BIG))
    assert fake.count("POST") == 1


@pytest.mark.parametrize("status", [401, 403, 404, 405, 500])
def test_a_mount_that_is_refused_becomes_an_upload(fake, send, status):
    fake.fault("POST", "mount=", status=status, times=9)
    assert send(mount_from="lib/base") == (True, len(BIG))


def test_two_pushes_of_one_blob_at_once_send_it_once(fake, send, tmp_path):
    (tmp_path / "blob").write_bytes(BIG)
    fake.fault("PUT", UPLOADS, delay_s=0.05)
    results: list[tuple[bool, int]] = []
    threads = [threading.Thread(target=lambda: results.append(send())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(sent for sent, _ in results) == [False, False, False, True]
    assert fake.count("PUT") == 1


@pytest.mark.parametrize("from_file", [True, False])
def test_a_broken_upload_goes_on_where_it_stopped(fake, send, from_file):
    fake.fault("PUT", UPLOADS, drop_body_after=2 << 20)
    assert send(from_file=from_file) == (True, len(BIG))
    patch = fake.requests("PATCH")[0]
    assert patch.headers["content-range"] == f"{2 << 20}-{len(BIG) - 1}"
    assert sum(r.received for r in fake.log) == len(BIG)
    assert fake.blobs["lib/tiny", Digest.of(BIG)] == BIG


def test_an_upload_that_breaks_again_and_again_still_gets_there(fake, send):
    fake.fault("PUT", UPLOADS, drop_body_after=1 << 20)
    fake.fault("PATCH", UPLOADS, drop_body_after=1 << 20, times=4)
    assert send() == (True, len(BIG))


def test_an_upload_that_the_registry_forgot_begins_anew(fake, send):
    fake.fault("PUT", UPLOADS, drop_body_after=2 << 20)
    fake.fault("GET", UPLOADS, status=404)
    assert send() == (True, len(BIG))
    assert fake.count("POST") == 2


def test_an_upload_without_progress_is_given_up(fake, send):
    fake.fault("PUT", UPLOADS, drop=True, times=1000)
    with pytest.raises(RegistryError, match="could not be pushed"):
        send()
    assert fake.count("PUT") <= 6


@pytest.mark.parametrize("status", [500, 502, 503, 504, 429])
def test_a_flaky_answer_to_the_start_is_asked_for_again(fake, send, status):
    fake.fault("POST", UPLOADS, status=status, times=3)
    assert send() == (True, len(BIG))


@pytest.mark.parametrize("status", [500, 502, 503, 504, 429])
def test_a_flaky_answer_to_the_blob_is_tried_again(fake, send, status):
    fake.fault("PUT", UPLOADS, status=status, times=2)
    assert send() == (True, len(BIG))


def test_a_registry_that_knows_pieces_only_gets_pieces(fake, send):
    fake.supports_whole_put = False
    assert send() == (True, len(BIG))
    assert fake.count("PATCH") == 1


def test_pieces_shrink_until_they_pass(fake, send, monkeypatch):
    monkeypatch.setattr(push, "_PIECES", (1 << 62, 4 << 20, 1 << 20))
    fake.max_body = 1 << 20
    assert send() == (True, len(BIG))
    assert fake.count("PATCH", status=202) == 6
    assert fake.blobs["lib/tiny", Digest.of(BIG)] == BIG


def test_bodies_that_are_always_too_large_are_an_error(fake, send):
    fake.max_body = 1000
    with pytest.raises(RegistryError, match="413"):
        send()


def test_a_registry_may_ask_for_larger_pieces(fake, send, monkeypatch):
    monkeypatch.setattr(push, "_PIECES", (1 << 62, 1 << 20, 1 << 18))
    fake.fault(
        "POST", UPLOADS, status=202, times=9, headers={"Location": "", "OCI-Chunk-Min-Length": "3000000"}
    )
    fake.uploads["u"] = bytearray()
    fake.faults[0].headers["Location"] = "/v2/lib/tiny/blobs/uploads/u"
    fake.supports_whole_put = False
    fake.fault("PATCH", UPLOADS, status=413)
    assert send() == (True, len(BIG))
    assert {r.received for r in fake.requests("PATCH", status=202)} == {3000000, len(BIG) - 6000000}


def test_bytes_that_are_not_those_announced_are_not_sent_three_times(fake, client, ref):
    descriptor = Descriptor(media.OCI_LAYER_TAR, Digest.of(b"right"), 5)
    with pytest.raises(RegistryError, match="digest"):
        client.push_blob(ref, descriptor, lambda: io.BytesIO(b"wrong"))
    assert fake.count("PUT") == 1


def test_a_local_blob_that_is_too_short_is_an_error_of_the_blob(client, ref):
    descriptor = Descriptor(media.OCI_LAYER_TAR, Digest.of(b"right"), 5)
    with pytest.raises(DigestMismatch, match="shorter"):
        client.push_blob(ref, descriptor, lambda: io.BytesIO(b"rig"))


def test_an_empty_blob_is_sent(fake, send):
    assert send(b"") == (True, 0)
    assert ("lib/tiny", Digest.of(b"")) in fake.blobs


def test_cancel_stops_an_upload(fake, client, ref):
    cancel = threading.Event()
    with pytest.raises(Canceled):
        client.push_blob(
            ref,
            Descriptor(media.OCI_LAYER_TAR, Digest.of(BIG), len(BIG)),
            lambda: io.BytesIO(BIG),
            on_progress=lambda _: cancel.set(),
            cancel=cancel,
        )
    assert fake.blobs == {}


def test_an_upload_elsewhere_gets_no_credentials(fake, second, send):
    second.uploads["u"] = bytearray()
    place = f"{second.url}/v2/lib/tiny/blobs/uploads/u"
    fake.fault("POST", UPLOADS, status=202, headers={"Location": place})
    assert send() == (True, len(BIG))
    assert second.blobs["lib/tiny", Digest.of(BIG)] == BIG
    assert "authorization" not in second.log[0].headers


# manifests
# ----------------------------------------------------------------------------------------------------


def test_a_manifest_is_stored_by_tag_and_by_digest(fake, client, ref, second):
    blob = second.add_image("lib/tiny", "v1", [b"layer"])
    for raw in second.blobs.values():
        fake.add_blob("lib/tiny", raw)
    client.push_manifest(ref, blob)
    assert fake.tags == {}
    client.push_manifest(ref, blob, tag="v1")
    assert fake.tags == {("lib/tiny", "v1"): blob.digest}
    assert fake.manifests["lib/tiny", blob.digest] == blob
    assert fake.requests("PUT")[0].headers["content-type"] == media.OCI_MANIFEST


@pytest.mark.parametrize("status", [429, 503])
def test_the_last_manifest_survives_a_flaky_registry(fake, client, ref, status):
    index = Blob.of(media.OCI_INDEX, b'{"schemaVersion":2,"manifests":[]}')
    fake.fault("PUT", "manifests", status=status, times=3)
    client.push_manifest(ref, index, tag="v1")
    assert fake.tags["lib/tiny", "v1"] == index.digest


def test_a_manifest_whose_blobs_are_missing_says_so(fake, client, ref, second):
    blob = second.add_image("lib/tiny", "v1", [b"layer"])
    with pytest.raises(RegistryError, match="blob unknown to registry"):
        client.push_manifest(ref, blob, tag="v1")


def test_a_registry_that_stores_something_else_is_found_out(fake, client, ref):
    index = Blob.of(media.OCI_INDEX, b'{"schemaVersion":2,"manifests":[]}')
    fake.fault("PUT", "manifests", digest_header=Digest.of(b"other"))
    with pytest.raises(RegistryError, match="instead of"):
        client.push_manifest(ref, index, tag="v1")


def test_a_manifest_can_be_deleted(fake, client, ref):
    blob = fake.add_image("lib/tiny", "latest")
    client.delete(ref, blob.digest)
    assert fake.manifests == {}
    with pytest.raises(ManifestNotFound):
        client.delete(ref, blob.digest)


def test_a_registry_that_forbids_deletion_says_so(fake, client, ref):
    fake.fault("DELETE", "", status=405)
    with pytest.raises(RegistryError, match="does not allow deletion"):
        client.delete(ref, Digest.of(b"x"))


@pytest.mark.parametrize("raw", [BIG, b"small"])
def test_a_blob_whose_acknowledgement_was_lost_is_not_sent_again(fake, send, raw):
    fake.fault("PUT", UPLOADS, lose_answer=True)
    assert send(raw)[0]
    assert fake.count("PUT", UPLOADS) == 1
    assert fake.blobs["lib/tiny", Digest.of(raw)] == raw
