"""Packages installed in emulated steps: `apt-get install gcc make libc6-dev` in a small Debian, from packages
on the disk."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from anyarch.testing.debian_roots import INSTALL_PACKAGES, package_repository
from ways import ARCHITECTURES, CACHE, ROUNDS, debian_builder, suite_of, three_ways

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ways import Found

MOST = 1.6
"""Times native."""
PACKAGES = ("gcc", "make", "libc6-dev")
# what differs by itself from run to run is left out: logs, and apt's caches, which hold times
DOCKERFILE = f"""
FROM debian AS work
ARG ROUND
RUN --mount=type=bind,from=repository,target=/repository <<END
set -e
export DEBIAN_FRONTEND=noninteractive
echo "deb [trusted=yes] file:/repository/$(dpkg --print-architecture) ./" > /etc/apt/sources.list
apt-get -o APT::Sandbox::User=root update
apt-get -o APT::Sandbox::User=root install -y --no-install-recommends {" ".join(PACKAGES)}
rm -rf /var/log/* /var/cache/* /var/lib/apt/lists/*
times
END
FROM scratch
COPY --from=work / /src/
"""


def measure(platform: str, rounds: int = ROUNDS) -> Iterator[Found]:
    """The one workload."""
    suite = suite_of(platform)
    with tempfile.TemporaryDirectory(prefix="anyarch-bench-") as directory:
        top = Path(directory)
        for each in ("amd64", ARCHITECTURES[platform]):
            repository(top / "repository" / each, each, suite)
        build = debian_builder(
            top, platform, base=INSTALL_PACKAGES, build_contexts={"repository": str(top / "repository")}
        )
        name = f"`apt-get install {' '.join(PACKAGES)}`"
        yield three_ways(build, name, platform, DOCKERFILE, {"empty": b""}, MOST, rounds=rounds)


def repository(directory: Path, architecture: str, suite: str) -> None:
    """Make the directory that apt installs from."""
    directory.mkdir(parents=True)
    for path in package_repository(CACHE, architecture, suite=suite, packages=PACKAGES).iterdir():
        os.link(path, directory / path.name)
