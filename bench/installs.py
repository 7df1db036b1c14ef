"""Packages installed in emulated steps, three ways in one run: native, emulated, accelerated.

    python bench/installs.py [--platform linux/arm64] [--rounds 1]

As `acceleration`, in a small Debian with apt: `apt-get install gcc make libc6-dev` from packages on the disk.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from acceleration import ARCHITECTURES, CACHE, SUITE, SUITES, debian_builder, three_ways
from anyarch.testing.debian_roots import INSTALL_PACKAGES, package_repository

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from acceleration import Found

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


def measure(platforms: Iterable[str] = ("linux/arm64",), rounds: int = 1) -> Iterator[Found]:
    """Each platform three ways."""
    for platform in platforms:
        suite = SUITES.get(platform, SUITE)
        with tempfile.TemporaryDirectory(prefix="anyarch-bench-") as directory:
            top = Path(directory)
            architectures = ("amd64", ARCHITECTURES[platform])
            for each in architectures:
                repository(top / "repository" / each, each, suite)
            build = debian_builder(
                top,
                platform,
                suite=suite,
                base=INSTALL_PACKAGES,
                build_contexts={"repository": str(top / "repository")},
            )
            yield three_ways(build, "apt-get install", platform, DOCKERFILE, {"empty": b""}, rounds)


def repository(directory: Path, architecture: str, suite: str) -> None:
    """Make the directory that apt installs from."""
    directory.mkdir(parents=True)
    for path in package_repository(CACHE, architecture, suite=suite, packages=PACKAGES).iterdir():
        os.link(path, directory / path.name)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--platform", choices=sorted(ARCHITECTURES), action="append")
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    failed = False
    for one in measure(options.platform or ("linux/arm64",), options.rounds):
        failed = failed or bool(one.different) or one.accelerated > MOST * one.native
        print(f"{one.times}, at most {MOST}x; {one.told}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
