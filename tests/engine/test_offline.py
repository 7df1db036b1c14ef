"""`fetch --lock` and builds with a lock file, the offline ones in an empty network namespace."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.registry, pytest.mark.emulation, pytest.mark.root]

TWO = "linux/amd64,linux/arm64"
RECIPE = """\
ARG BASE=busybox
FROM alpine AS other
FROM ${BASE}
COPY --from=other /etc/hostname* /etc/passwd /from/
RUN --network=none uname -m > /machine
"""
# Internet sockets end the program: what --offline promises is more than that connecting fails.
WATCHED = """
import os, socket, sys
def watch(event, arguments):
    inet = event == "socket.__new__" and arguments[1] in (socket.AF_INET, socket.AF_INET6)
    if inet or event in ("socket.getaddrinfo", "socket.gethostbyname"):
        sys.stderr.write(f"a socket was opened: {event}\\n")
        sys.stderr.flush()
        os._exit(99)
sys.addaudithook(watch)
from anyarch.cli.main import main
sys.exit(main())
"""


@pytest.fixture
def context(tmp_path):
    directory = tmp_path / "context"
    directory.mkdir()
    (directory / "Dockerfile").write_text(RECIPE)
    return directory


@pytest.fixture
def anyarch(bases, tmp_path):
    """Runs a command line on a machine with a store of its own; offline without any network."""

    def run(store, *words, offline=False):
        argv = [sys.executable, "-m", "anyarch", *words]
        if offline:
            argv = ["unshare", "--net", sys.executable, "-c", WATCHED, *words]
        done = subprocess.run(
            argv,
            env={**bases.environment, "ANYARCH_ROOT": str(tmp_path / store)},
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        return done.returncode, done.stdout, done.stderr

    return run


def test_a_fetched_recipe_builds_without_a_network_on_another_machine(anyarch, context, tmp_path):
    lock = tmp_path / "anyarch.lock"
    status, out, err = anyarch("first", "fetch", "--lock", str(lock), "--platform", TWO, str(context))
    assert status == 0, err
    assert "docker.io/library/busybox:latest@sha256:" in out
    assert "docker.io/library/alpine:latest@sha256:" in out
    assert set(json.loads(lock.read_text())["images"]) == {
        "docker.io/library/alpine:latest",
        "docker.io/library/busybox:latest",
    }
    arguments = ("--build-arg", "SOURCE_DATE_EPOCH=0", "--platform", TWO)
    output = f"type=oci,tar=false,dest={tmp_path}/out,rewrite-timestamp=true"
    offline = ("build", "-q", "--offline", "--lock", str(lock), *arguments, "-o", output, str(context))
    status, made, err = anyarch("second", *offline, offline=True)
    assert status == 0, err
    status, again, err = anyarch("third", "build", "-q", *arguments, "-o", output, str(context))
    assert (status, again) == (0, made), err


def test_what_was_not_fetched_is_told(anyarch, context, tmp_path):
    lock = tmp_path / "anyarch.lock"
    status, _, err = anyarch("first", "fetch", "--lock", str(lock), "--platform", "linux/amd64", str(context))
    assert status == 0, err
    offline = ("build", "-q", "--offline", "--lock", str(lock))
    status, _, err = anyarch("second", *offline, "--platform", "linux/arm64", str(context), offline=True)
    assert status == 1
    assert "--offline, and the bundle of" in err
    status, _, err = anyarch(
        "second",
        *offline,
        "--build-arg",
        "BASE=debian",
        "--platform",
        "linux/amd64",
        str(context),
        offline=True,
    )
    assert status == 1
    assert "debian:latest: it is not in the lock file" in err
    status, _, err = anyarch("second", "build", "-q", "--offline", str(context), offline=True)
    assert status == 1
    assert "no lock file says what it stands for" in err
    for words, text in (
        (("--push", "-t", "localhost:1/x"), "--offline: nothing can be pushed"),
        (("--cache-from", "localhost:1/x"), "--offline: no cache of type=registry"),
    ):
        status, _, err = anyarch("second", *offline, *words, str(context), offline=True)
        assert status == 1
        assert text in err
    (context / "Dockerfile").write_text("FROM scratch\nADD http://example.invalid/file /\n")
    status, _, err = anyarch("second", "build", "-q", "--offline", "-t", "x", str(context), offline=True)
    assert status == 1
    assert "--offline: http://example.invalid/file is not asked for" in err
    lock.write_text("{")
    status, _, err = anyarch("second", *offline, str(context), offline=True)
    assert status == 1
    assert "is no lock file" in err


def test_a_damaged_bundle_is_found_out(anyarch, context, tmp_path):
    lock = tmp_path / "anyarch.lock"
    fetch = ("fetch", "--lock", str(lock), "--platform", "linux/amd64", str(context))
    assert anyarch("first", *fetch)[0] == 0
    for path in (tmp_path / "anyarch.lock.bundle/blobs/sha256").iterdir():
        raw = bytearray(path.read_bytes())
        if len(raw) > 100_000:
            raw[50_000] ^= 1
            path.write_bytes(raw)
    build = ("build", "-q", "--offline", "--lock", str(lock), "--platform", "linux/amd64")
    status, _, err = anyarch("second", *build, "-t", "x", str(context), offline=True)
    assert status == 1
    assert "damaged" in err or "digest" in err


def test_a_lock_file_pins_what_a_moving_tag_names(anyarch, bases, context, tmp_path):
    lock = tmp_path / "anyarch.lock"
    status, _, err = anyarch(
        "first", "fetch", "--lock", str(lock), "--pin-only", "--platform", "linux/amd64", str(context)
    )
    assert status == 0, err
    assert not (tmp_path / "anyarch.lock.bundle").exists()
    document = json.loads(lock.read_text())
    raw = json.loads(
        anyarch("first", "imagetools", "inspect", "--raw", f"{bases.registry}/library/busybox")[1]
    )
    arm = next(e["digest"] for e in raw["manifests"] if e["platform"]["architecture"] == "arm64")
    document["images"]["docker.io/library/busybox:latest"] = arm
    lock.write_text(json.dumps(document))
    (context / "Dockerfile").write_text("FROM busybox\nCOPY Dockerfile /x\n")
    build = ("build", "--lock", str(lock), "--platform", "linux/arm64", "-t", "x", "--progress=plain")
    status, _, err = anyarch("first", *build, str(context))
    assert status == 0, err
    assert arm in err
