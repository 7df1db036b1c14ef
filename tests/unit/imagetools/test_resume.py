"""A copy that was killed in the middle of a blob goes on there: every byte is counted by the registry."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time

import pytest

from anyarch.spec.digest import Digest
from anyarch.testing.registry import FakeRegistry

LAYER = random.Random(6).randbytes(24 << 20)  # more than the buffers of a connection hold, and half
HALF = 6 << 20


@pytest.fixture
def fake():
    with FakeRegistry() as registry:
        registry.add_image("lib/app", "1", [LAYER])
        yield registry


@pytest.fixture
def copy(tmp_path):
    def start(*arguments):
        return subprocess.Popen(
            [sys.executable, "-m", "anyarch", "copy", "-q", *arguments],
            env={
                **os.environ,
                "ANYARCH_ROOT": str(tmp_path / "root"),
                "XDG_STATE_HOME": str(tmp_path / "state"),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


def finish(process):
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out


def kill_when(process, is_time):
    deadline = time.monotonic() + 60
    while not is_time() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.005)
    assert is_time(), process.communicate()
    process.send_signal(signal.SIGKILL)
    process.communicate()


def sizes(directory):
    return [p.stat().st_size for p in directory.glob("sha256-*")] if directory.is_dir() else []


TARGETS = {"oci-layout": ("oci-layout://{}/out:1", "out/ingest"), "store": ("store://app:1", "root/partial")}


@pytest.mark.parametrize("kind", TARGETS)
def test_a_download_that_was_killed_goes_on_in_the_next_process(fake, copy, tmp_path, kind):
    target, directory = TARGETS[kind][0].format(tmp_path), tmp_path / TARGETS[kind][1]
    digest = Digest.of(LAYER)
    fake.fault("GET", f"/blobs/{digest}", bytes_per_s=20 << 20)
    source = f"{fake.address}/lib/app:1"
    kill_when(copy(source, target), lambda: sum(sizes(directory)) >= HALF)
    (had,) = sizes(directory)
    fake.clear_log()

    finish(copy(source, target))

    (request,) = fake.requests("GET", f"/blobs/{digest}")
    assert request.headers["range"] == f"bytes={had}-"
    assert request.sent == len(LAYER) - had
    (blob,) = tmp_path.glob(f"*/blobs/sha256/{digest.hex}")
    assert Digest.of(blob.read_bytes()) == digest
    assert sizes(directory) == []


def test_bytes_that_were_wrong_are_fetched_again_from_the_start(fake, copy, tmp_path):
    """The server sends something else after the first run than before it."""
    digest = Digest.of(LAYER)
    target, directory = f"oci-layout://{tmp_path}/out:1", tmp_path / "out/ingest"
    fake.fault("GET", f"/blobs/{digest}", bytes_per_s=20 << 20, corrupt=True)
    source = f"{fake.address}/lib/app:1"
    kill_when(copy(source, target), lambda: sum(sizes(directory)) >= HALF)
    fake.clear_log()

    finish(copy(source, target))

    assert [r.headers.get("range") is None for r in fake.requests("GET", f"/blobs/{digest}")] == [False, True]
    assert (tmp_path / "out/blobs/sha256" / digest.hex).read_bytes() == LAYER
    assert sorted(os.listdir(tmp_path / "out")) == ["blobs", "index.json", "oci-layout"]


def test_a_lying_server_is_found_out_and_nothing_is_kept(fake, copy, tmp_path):
    digest = Digest.of(LAYER)
    target, directory = f"oci-layout://{tmp_path}/out:1", tmp_path / "out/ingest"
    source = f"{fake.address}/lib/app:1"
    fake.fault("GET", f"/blobs/{digest}", bytes_per_s=20 << 20)
    kill_when(copy(source, target), lambda: sum(sizes(directory)) >= HALF)
    fake.fault("GET", f"/blobs/{digest}", corrupt=True, times=10)

    process = copy(source, target)
    _, err = process.communicate(timeout=120)

    assert process.returncode == 1
    assert digest in err
    assert "Traceback" not in err
    assert sizes(directory) == []
    assert not (tmp_path / "out/blobs/sha256" / digest.hex).exists()


def test_two_processes_at_once_both_finish(fake, copy, tmp_path):
    digest = Digest.of(LAYER)
    fake.fault("GET", f"/blobs/{digest}", bytes_per_s=20 << 20)
    source, target = f"{fake.address}/lib/app:1", f"oci-layout://{tmp_path}/out:1"
    for process in [copy(source, target), copy(source, target)]:
        finish(process)
    assert (tmp_path / "out/blobs/sha256" / digest.hex).read_bytes() == LAYER


UPLOADS = "/blobs/uploads/"


@pytest.fixture
def layout(fake, copy, tmp_path):
    """An image with one large layer, to be pushed; the registry's log is empty."""
    place = f"oci-layout://{tmp_path}/source:1"
    finish(copy(f"{fake.address}/lib/app:1", place))
    fake.clear_log()
    return place


def sent(fake):
    return sum(request.received for request in fake.requests("", UPLOADS))


def received(fake):
    with fake.lock:
        return max((len(data) for data in fake.uploads.values()), default=0)


def begin_and_kill(fake, copy, layout):
    fake.fault("PUT", UPLOADS, bytes_per_s=20 << 20)
    kill_when(copy(layout, f"{fake.address}/new/app:1"), lambda: received(fake) >= HALF)
    before = -1
    while before != received(fake):  # what it had sent before arrives
        before = received(fake)
        time.sleep(0.3)


def test_an_upload_that_was_killed_goes_on_in_the_next_process(fake, copy, layout, tmp_path):
    begin_and_kill(fake, copy, layout)
    finish(copy(layout, f"{fake.address}/new/app:1"))
    (piece,) = fake.requests("PATCH", UPLOADS)
    assert piece.received == len(LAYER) - int(piece.headers["content-range"].partition("-")[0])
    assert piece.received <= len(LAYER) - HALF
    assert fake.blobs["new/app", Digest.of(LAYER)] == LAYER
    assert os.listdir(tmp_path / "root/uploads") == []


def test_an_upload_that_the_registry_has_forgotten_begins_anew(fake, copy, layout):
    begin_and_kill(fake, copy, layout)
    with fake.lock:
        fake.uploads.clear()
    finish(copy(layout, f"{fake.address}/new/app:1"))
    assert fake.count("PATCH", UPLOADS) == 0
    assert fake.blobs["new/app", Digest.of(LAYER)] == LAYER


def test_an_upload_that_the_registry_has_spoilt_begins_anew(fake, copy, layout):
    begin_and_kill(fake, copy, layout)
    time.sleep(0.2)  # the registry reads what was on its way still
    with fake.lock:
        for data in fake.uploads.values():
            if data:
                data[0] ^= 1
    finish(copy(layout, f"{fake.address}/new/app:1"))
    assert fake.blobs["new/app", Digest.of(LAYER)] == LAYER


def test_two_uploads_of_one_blob_at_once_do_not_meet(fake, copy, layout):
    fake.fault("PUT", UPLOADS, bytes_per_s=20 << 20, times=2)
    for process in [copy(layout, f"{fake.address}/new/app:1") for _ in range(2)]:
        finish(process)
    assert fake.blobs["new/app", Digest.of(LAYER)] == LAYER
    assert fake.count("PATCH", UPLOADS) == 0
