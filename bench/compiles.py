"""Real packages compiled from their Debian source in emulated steps, in a root with Debian's compiler; and
programs that have no twins, started a thousand times."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from anyarch.testing.debian_sources import dockerfile_of, source_archive
from ways import CACHE, ROUNDS, debian_builder, three_ways

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ways import Found

PACKAGES = {
    "lua": "C: lua",
    "zlib": "C: zlib",
    "jq": "C: jq",
    "fmt": "C++: fmt",
}
"""What is made is run after that, emulated, in a step that is not counted."""
MOST = 1.3
"""Times native."""
# bash and uname are emulated: each start goes through the dispatcher and finds nothing
DISPATCH = r"""FROM debian AS work
ARG ROUND
RUN <<END
set -e
bash -c 'i=0; while [ $i -lt 1000 ]; do uname -m; i=$((i + 1)); done' >/said
times
END
FROM scratch
COPY --from=work /said /
"""


def measure(platform: str, rounds: int = ROUNDS) -> Iterator[Found]:
    """Each package."""
    with tempfile.TemporaryDirectory(prefix="anyarch-bench-") as directory:
        build = debian_builder(Path(directory), platform)
        for name, what in PACKAGES.items():
            archive = source_archive(CACHE, name)
            files = {archive.name: archive.read_bytes()}
            yield three_ways(build, what, platform, dockerfile_of(name), files, MOST, rounds=rounds)


def measure_dispatch(platform: str, rounds: int = ROUNDS) -> Iterator[Found]:
    """What the dispatcher costs where there is no twin."""
    with tempfile.TemporaryDirectory(prefix="anyarch-bench-") as directory:
        yield three_ways(
            debian_builder(Path(directory), platform, packages=("bash",)),
            "1,000 starts of a program without a twin",
            platform,
            DISPATCH,
            {"empty": b""},
            1.03,
            rounds=max(rounds, 5),
            base="emulated",
        )
