"""One builder of two machines, this one and one of another architecture: each builds what is native there."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.nodes.foreign_node import DAEMON_PORT, HOST, prepare, running

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from tests.conftest import Bases

CONFIG = '[registry."docker.io"]\nmirrors = ["{registry}"]\n[registry."{registry}"]\nhttp = true\n'
DOCKERFILE = """
FROM busybox
COPY greeting /
RUN uname -m > /arch && uname -r > /kernel && cat /greeting
"""


@contextmanager
def daemon(directory: Path, *arguments: str, environment: Mapping[str, str]) -> Iterator[str]:
    """`anyarchd` on this machine; its address."""
    socket = directory / "sock"
    argv = [sys.executable, "-c", "from anyarch.daemon.main import main; raise SystemExit(main())"]
    where = ["--addr", f"unix://{socket}", "--root", str(directory / "store")]
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen([*argv, *where, *arguments], env=dict(environment), stdout=log, stderr=log)
    try:
        for _ in range(200):
            if socket.exists():
                break
            assert process.poll() is None, (directory / "log").read_text()
            time.sleep(0.05)
        yield f"unix://{socket}"
    finally:
        process.terminate()
        process.wait(20)


@pytest.mark.slow
@pytest.mark.root
@pytest.mark.registry
def test_each_platform_is_built_where_it_is_native(tmp_path: Path, bases: Bases) -> None:
    port = bases.registry.rpartition(":")[2]
    config = CONFIG.format(registry=f"{HOST}:{port}")
    arguments = [
        "--addr",
        f"tcp://0.0.0.0:{DAEMON_PORT}",
        "--allow-unauthenticated-tcp",
        "--root",
        "/var/lib/anyarch",
        "--config",
        "/etc/a.toml",
    ]
    machine_directory, local = tmp_path / "machine", tmp_path / "local"
    machine_directory.mkdir()
    local.mkdir()
    (local / "config.toml").write_text(CONFIG.format(registry=f"127.0.0.1:{port}"))
    context = tmp_path / "context"
    context.mkdir()
    (context / "Dockerfile").write_text(DOCKERFILE)
    (context / "greeting").write_text("hello\n")
    environment = {**bases.environment, "BUILDX_CONFIG": str(tmp_path / "buildx"), "HOME": str(tmp_path)}

    def anyarch(*words: str) -> str:
        argv = [sys.executable, "-m", "anyarch", *words]
        done = subprocess.run(
            argv, env=environment, capture_output=True, text=True, cwd=tmp_path, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    machine = prepare(bases.cache, machine_directory, arguments, {"/etc/a.toml": config})
    local_arguments = ("--oci-worker-platform", "linux/amd64", "--config", str(local / "config.toml"))
    with (
        running(machine, tmp_path / "machine.log") as foreign,
        daemon(local, *local_arguments, environment=environment) as native,
    ):
        anyarch("create", "--name", "duo", "--driver", "remote", native)
        anyarch("create", "--append", "--name", "duo", "--driver", "remote", f"tcp://127.0.0.1:{foreign}")
        listed = anyarch("inspect", "duo")
        both = ("--builder", "duo", "--platform", "linux/amd64,linux/arm64", "context")
        anyarch("build", "-o", "out", *both)
        anyarch("build", "-o", "type=oci,dest=image.tar", "-t", "duo/image", *both)
        again = anyarch("build", "-o", "type=oci,dest=again.tar", "-t", "duo/image", *both)

    assert "linux/arm64" in listed
    out = tmp_path / "out"
    kernel = subprocess.run(["uname", "-r"], capture_output=True, text=True, check=True).stdout
    assert (out / "linux_amd64" / "arch").read_text() == "x86_64\n"
    assert (out / "linux_amd64" / "kernel").read_text() == kernel
    assert (out / "linux_arm64" / "arch").read_text() == "aarch64\n"
    assert (
        (out / "linux_arm64" / "kernel").read_text().endswith("-arm64\n")
    )  # its own, so nothing was emulated
    assert "CACHED" in again
    assert index_of(tmp_path / "image.tar") == index_of(tmp_path / "again.tar")
    assert [item["platform"]["architecture"] for item in index_of(tmp_path / "image.tar")] == [
        "amd64",
        "arm64",
    ]


def index_of(archive: Path) -> list[dict[str, dict[str, str]]]:
    """The entries of the image index in an OCI archive."""
    with tarfile.open(archive) as files:

        def read(name: str) -> dict[str, list[dict[str, dict[str, str]]]]:
            member = files.extractfile(name)
            assert member is not None
            value: dict[str, list[dict[str, dict[str, str]]]] = json.load(member)
            return value

        [entry] = read("index.json")["manifests"]
        return read(f"blobs/{str(entry['digest']).replace(':', '/')}")["manifests"]
