"""Nodes on this machine as if they were several machines, and the command line that builds on them."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, NamedTuple

import pytest

from anyarch.testing.daemons import NodeDaemon
from anyarch.testing.debian_images import busybox_context
from tests.conftest import PROJECT, run_anyarch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path


class Answer(NamedTuple):
    status: int
    out: str
    err: str


class Cli:
    """The command line with a home of its own."""

    def __init__(self, directory: Path, environment: Mapping[str, str], base: Path) -> None:
        self.directory = directory
        self.environment = {
            **environment,
            "HOME": str(directory),
            "DOCKER_CONFIG": str(directory / ".docker"),
            "ANYARCH_ROOT": str(directory / "root"),
        }
        self.base = base

    def start(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "anyarch", *words],
            env=self.environment,
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __call__(self, *words: str) -> Answer:
        process = self.start(*words)
        out, err = process.communicate(timeout=240)
        return Answer(process.returncode, out, err)

    def build(self, *words: str) -> Answer:
        return self(*self.build_words(*words))

    def build_words(self, *words: str) -> tuple[str, ...]:
        """A build whose `busybox` is an image on this machine: the nodes have no network but to us."""
        named = ("--build-context", f"busybox=oci-layout://{self.base}")
        return ("build", "--progress", "plain", *named, *words, str(self.directory / "context"))


@pytest.fixture(scope="session")
def base(
    cache_directory: Path, clean_environment: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """An OCI layout with busybox for two platforms."""
    directory = tmp_path_factory.mktemp("base")
    run_anyarch(
        *("build", "--platform", "linux/amd64,linux/arm64", "-o", f"type=oci,tar=false,dest={directory}"),
        *("--file", str(PROJECT / "examples/bases/busybox/Dockerfile")),
        *("--build-arg", "SOURCE_DATE_EPOCH=0", str(busybox_context(cache_directory))),
        environment={**clean_environment, "ANYARCH_ROOT": str(tmp_path_factory.mktemp("base-store"))},
    )
    return directory


@pytest.fixture
def cli(tmp_path: Path, clean_environment: Mapping[str, str], base: Path) -> Cli:
    (tmp_path / "context").mkdir()
    return Cli(tmp_path, clean_environment, base)


@pytest.fixture
def node(tmp_path: Path, clean_environment: Mapping[str, str]) -> Iterator[Callable[..., NodeDaemon]]:
    """Start daemons; they end with the test."""
    started: list[NodeDaemon] = []

    def start(platforms: str, *flags: str) -> NodeDaemon:
        number = len(started)
        directory = tmp_path / f"node{number}"
        daemon = NodeDaemon(
            directory, number, platforms=platforms, flags=flags, environment=dict(clean_environment)
        )
        started.append(daemon)
        return daemon

    yield start
    for daemon in started:
        daemon.close()
