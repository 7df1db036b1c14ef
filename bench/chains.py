"""Tool chains of languages in emulated steps, with Debian's packages of them in the base image of both
platforms. Go builds gxz with the standard library that it needs; clang builds lua."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from anyarch.testing.debian_sources import source_archive
from ways import CACHE, ROUNDS, debian_builder, three_ways

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ways import Found


class Chain(NamedTuple):
    """What is measured, what the root has, a source archive, what is run in /src, and the most times native
    that it may take."""

    what: str
    packages: tuple[str, ...]
    source: str
    script: str
    most: float
    first: int = 1
    """So many builds before those that count: Go's own command has a twin after a first one."""
    emulated: tuple[str, ...] = ()
    """Platforms on which it has no twins."""


_GO = "cd */ && HOME=/root CGO_ENABLED=0 go build -trimpath -o . ./cmd/gxz"
CHAINS = {
    "go": Chain("Go: `gxz`", ("golang-go",), "gxz", _GO, 1.4, first=2),
    "clang": Chain(
        "clang: lua",
        ("clang", "lld"),
        "lua",
        "make -C */src linux CC=clang >/dev/null",
        1.3,
        emulated=("linux/arm/v7",),
    ),
}


def measure(name: str, platform: str, rounds: int = ROUNDS) -> Iterator[Found]:
    """The workload of a chain."""
    chain = CHAINS[name]
    if platform in chain.emulated:
        return
    with tempfile.TemporaryDirectory(prefix="anyarch-bench-") as directory:
        build = debian_builder(Path(directory), platform, packages=chain.packages)
        archive = source_archive(CACHE, chain.source)
        files = {archive.name: archive.read_bytes()}
        dockerfile = (
            f"FROM debian AS work\nADD {archive.name} /src/\nWORKDIR /src\nARG ROUND\n"
            f"RUN {chain.script} && times\n"
            "FROM scratch\nCOPY --from=work /src /src\n"
        )
        yield three_ways(
            build, chain.what, platform, dockerfile, files, chain.most, rounds=rounds, first=chain.first
        )
