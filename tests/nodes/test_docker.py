"""A real docker engine and docker's own command line: contexts, the docker driver, anyarch as the plugin."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from anyarch.testing.debian_docker import DebianDocker

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

pytestmark = [pytest.mark.root]


class Docker:
    """docker's command line with anyarch as its plugin, at an engine of its own."""

    def __init__(self, engine: DebianDocker, home: Path, environment: Mapping[str, str]) -> None:
        self.engine = engine
        self.home = home
        self.environment = {
            **environment,
            **engine.environment,
            "HOME": str(home),
            "DOCKER_CONFIG": str(home / ".docker"),
            "ANYARCH_ROOT": str(home / "root"),
        }
        subprocess.run(
            [sys.executable, "-m", "anyarch", "plugin", "install"],
            env=self.environment,
            check=True,
            capture_output=True,
        )

    def __call__(self, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        environment = {**self.environment, **variables}
        if not variables.get("DOCKER_HOST", "x"):
            del environment["DOCKER_HOST"]
        return subprocess.run(
            ["docker", *words],
            env=environment,
            cwd=self.home,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            check=False,
            timeout=120,
        )


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DebianDocker]:
    with DebianDocker(tmp_path_factory.mktemp("docker")) as engine:
        yield engine


@pytest.fixture
def docker(engine: DebianDocker, tmp_path: Path, clean_environment: Mapping[str, str]) -> Docker:
    (tmp_path / "Dockerfile").write_text("FROM scratch\nARG TARGETARCH\nCOPY file /\nLABEL for=$TARGETARCH\n")
    (tmp_path / "file").write_text("text\n")
    return Docker(engine, tmp_path, clean_environment)


def test_docker_takes_anyarch_as_its_buildx(docker):
    answer = docker("buildx", "version")
    assert (answer.returncode, answer.stdout.split()[0]) == (0, "anyarch")
    info = json.loads(docker("info", "--format", "{{json .ClientInfo.Plugins}}").stdout)
    (plugin,) = [item for item in info if item["Name"] == "buildx"]
    assert (plugin["Vendor"], plugin.get("Err")) == ("anyarch", None)


def test_docker_build_leaves_the_image_in_the_engine(docker):
    answer = docker("build", "-q", "-t", "plain:1", ".")
    assert answer.returncode == 0, answer.stderr
    labels = docker("image", "inspect", "plain:1", "--format", "{{json .Config.Labels}}").stdout
    assert json.loads(labels) == {"for": "amd64" if os.uname().machine == "x86_64" else "arm64"}


def test_the_guides_commands_work_word_for_word(docker):
    for name in ("node-amd64", "node-arm64"):
        address = docker.engine.environment["DOCKER_HOST"]
        path = f"unix://{os.path.realpath(address.removeprefix('unix://'))}"
        if name == "node-arm64":
            path = path.replace("/tmp/", "/tmp//")  # one engine, two endpoints
        made = docker("context", "create", name, "--docker", f"host={path}", DOCKER_HOST="")
        assert made.returncode == 0, made.stderr
    create = docker("buildx", "create", "--use", "--name", "mybuild", "node-amd64")
    assert (create.returncode, create.stdout) == (0, "mybuild\n")
    append = docker("buildx", "create", "--append", "--name", "mybuild", "node-arm64")
    assert (append.returncode, append.stdout) == (0, "mybuild\n")
    listed = docker("buildx", "ls")
    assert "mybuild*" in listed.stdout
    assert "node-arm64" in listed.stdout
    stored = json.loads((docker.home / ".docker" / "buildx" / "instances" / "mybuild").read_text())
    assert [node["Endpoint"] for node in stored["Nodes"]] == ["node-amd64", "node-arm64"]


def test_a_context_is_a_builder_that_builds_in_its_engine(docker):
    made = docker(
        *("context", "create", "engine", "--docker", f"host={docker.engine.environment['DOCKER_HOST']}"),
        DOCKER_HOST="",
    )
    assert made.returncode == 0, made.stderr
    inside = {"DOCKER_HOST": "", "DOCKER_CONTEXT": "engine"}
    answer = docker("buildx", "build", "-t", "inside:1", ".", **inside)
    assert answer.returncode == 0, answer.stderr
    assert docker("image", "inspect", "inside:1", **inside).returncode == 0
    refused = docker("buildx", "build", "--platform", "linux/amd64,linux/arm64", ".", **inside)
    assert refused.returncode == 1
    assert "Multi-platform build is not supported for the docker driver." in refused.stderr
    inspected = docker("buildx", "inspect", **inside).stdout
    assert "Driver:        docker\n" in inspected
    assert "Status:           running\n" in inspected


def test_flags_of_docker_reach_anyarch(docker):
    address = docker.engine.environment["DOCKER_HOST"]
    made = docker("context", "create", "flagged", "--docker", f"host={address}", DOCKER_HOST="")
    assert made.returncode == 0, made.stderr
    answer = docker("--context", "flagged", "buildx", "inspect", DOCKER_HOST="")
    assert answer.stdout.startswith("Name:   flagged\nDriver: docker\n")


def test_a_wrong_flag_is_told_as_docker_tells_it(docker):
    answer = docker("buildx", "build", "--plattform", "x", ".")
    assert answer.returncode == 1
    assert "unknown flag: --plattform" in answer.stderr
    assert "did you mean --platform?" in answer.stderr
