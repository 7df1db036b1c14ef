"""`run` with its options, `test`, and `build --test`, through the command line."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time

import pytest

from anyarch.testing.registry import FakeRegistry

pytestmark = [pytest.mark.registry, pytest.mark.emulation]

TWO = "linux/amd64,linux/arm64"


@pytest.fixture
def anyarch(bases, tmp_path):
    """Runs a command line: status, standard output and standard error."""
    environment = {**bases.environment, "ANYARCH_ROOT": str(tmp_path / "store"), "BUILDKIT_PROGRESS": "plain"}

    def run(*words, **more):
        done = subprocess.run(
            [sys.executable, "-m", "anyarch", *words],
            env={**environment, **more},
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        return done.returncode, done.stdout, done.stderr

    return run


def recipe(tmp_path, text):
    context = tmp_path / "context"
    context.mkdir(exist_ok=True)
    (context / "Dockerfile").write_text(text)
    return str(context)


def test_options_of_run_do_what_docker_does(anyarch, tmp_path):
    (tmp_path / "env").write_text("# comment\n\nFROM_FILE=1\nTAKEN\n")
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared/shown").write_text("shown")
    script = (
        "echo $FROM_FILE $TAKEN $GIVEN; hostname; grep -c extra /etc/hosts; cat /mnt/shown; "
        "touch /x 2>/dev/null || echo readonly; touch /scratch/x && echo scratch; "
        "df -k /dev/shm | tail -1 | awk '{print $2}'; ulimit -n; pwd; id -u"
    )
    status, out, err = anyarch(
        *("run", "--rm", "--env-file", str(tmp_path / "env"), "-e", "GIVEN=3", "--hostname", "box"),
        *("--add-host", "extra:10.0.0.1"),
        *("--mount", f"type=bind,source={tmp_path}/shared,target=/mnt,readonly"),
        *("--read-only", "--tmpfs", "/scratch:size=1m", "--shm-size", "2m", "--ulimit", "nofile=77:77"),
        *("-w", "/bin", "-u", "5", "--entrypoint", "", "busybox", "sh", "-c", script),
        TAKEN="2",
    )
    assert (status, out.splitlines()) == (
        0,
        ["1 2 3", "box", "1", "shownreadonly", "scratch", "2048", "77", "/bin", "5"],
    ), err


def test_a_port_leads_to_the_program_under_another_number(bases, tmp_path):
    with socket.socket() as first, socket.socket() as second:
        first.bind(("127.0.0.1", 0))
        second.bind(("127.0.0.1", 0))
        outer, inner = first.getsockname()[1], second.getsockname()[1]
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "anyarch",
            "run",
            "-p",
            f"127.0.0.1:{outer}:{inner}",
            "busybox",
            "sh",
            "-c",
            f"while true; do echo hello | nc -l -p {inner}; done",
        ],
        env={**bases.environment, "ANYARCH_ROOT": str(tmp_path / "store")},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        said = b""
        deadline = time.monotonic() + 60
        while said != b"hello\n" and time.monotonic() < deadline and process.poll() is None:
            try:
                with socket.create_connection(("127.0.0.1", outer), timeout=2) as connection:
                    said = connection.recv(100)
            except OSError:
                time.sleep(0.05)
        assert said == b"hello\n"
    finally:
        process.terminate()
        process.wait()


def test_an_image_of_another_platform_is_run_with_a_warning(anyarch, bases):
    name = f"{bases.registry}/library/busybox"
    status, raw, _ = anyarch("imagetools", "inspect", "--raw", name)
    digest = next(
        e["digest"] for e in json.loads(raw)["manifests"] if e["platform"]["architecture"] == "arm64"
    )
    status, out, err = anyarch("run", f"{name}@{digest}", "uname", "-m")
    assert (status, out) == (0, "aarch64\n")
    assert "WARNING: The requested image's platform (linux/arm64) does not match" in err
    _, _, err = anyarch("run", "--platform", "linux/arm64", f"{name}@{digest}", "uname", "-m")
    assert "WARNING" not in err


def test_a_command_is_tried_on_every_platform(anyarch, tmp_path):
    context = recipe(
        tmp_path, 'FROM busybox\nARG TARGETARCH\nRUN echo $TARGETARCH > /arch\nENTRYPOINT ["false"]'
    )
    assert anyarch("build", "--platform", TWO, "-t", "tried:1", context)[0] == 0
    status, out, err = anyarch("test", "tried:1", "--", "uname", "-m")
    assert status == 0, err
    rows = [line.split() for line in out.splitlines()]
    assert [row[:2] for row in rows] == [
        ["PLATFORM", "RESULT"],
        ["linux/amd64", "passed"],
        ["linux/arm64", "passed"],
    ]
    assert {row[-1] for row in rows[1:]} <= {"native", "emulated"}
    assert "aarch64" in err
    status, out, _ = anyarch("test", "tried:1", "--", "grep", "-q", "amd64", "/arch")
    assert status == 1
    assert "linux/arm64  failed (1)" in out
    status, out, _ = anyarch("test", "--platform", "linux/arm64,linux/s390x", "tried:1", "--", "true")
    assert status == 1
    assert "linux/s390x  not run" in out
    assert "no match for platform" in out


def test_only_what_passed_its_test_is_published(anyarch, tmp_path):
    context = recipe(tmp_path, "FROM busybox\nARG TARGETARCH\nRUN echo $TARGETARCH > /arch")
    check = "grep -q amd64 /arch"
    with FakeRegistry() as fake:
        name = f"{fake.address}/lib/app"
        build = ("build", "--platform", TWO, "--push", context)
        status, _, err = anyarch(*build, "-t", f"{name}:1", "--test", check)
        assert status == 1
        assert "[linux/arm64 test]" in err
        assert fake.tags == {}
        status, _, err = anyarch(
            *build, "-t", f"{name}:2", "--test", check, "--optional", "linux/arm64", "--test", '["true"]'
        )
        assert status == 0, err
        index = json.loads(fake.manifests["lib/app", fake.tags["lib/app", "2"]].raw)
        assert [e["platform"]["architecture"] for e in index["manifests"]] == ["amd64", "unknown"]
        status, _, err = anyarch(*build, "-t", f"{name}:3", "--test", "test -s /arch")
        assert status == 0, err
        assert ("lib/app", "3") in fake.tags


def test_what_cannot_be_asked_of_run_is_refused(anyarch):
    for words, text in (
        (("-p", "x:80"), "invalid port"),
        (("-p", "80:80/udp"), "only TCP ports"),
        (("--mount", "type=volume,target=/x"), "only bind and tmpfs"),
        (("--mount", "type=bind,source=/,target=x"), "must be an absolute path"),
        (("--tmpfs", "/x:exec"), "is not supported"),
        (("--env-file", "/nowhere"), "open /nowhere"),
        (("--cpus", "no"), "a number above 0.01"),
    ):
        status, _, err = anyarch("run", *words, "busybox", "true")
        assert status == 125
        assert text in err
