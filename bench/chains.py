"""Tool chains of languages in emulated steps, three ways in one run: native, emulated, accelerated.

    python bench/chains.py [--chain go] [--rounds 1]

As `acceleration`, with Debian's Go and clang in the base image of both platforms. Go builds gxz, and two
commands of its own, with the standard library that they need; clang builds lua. Measured is the processor
time of the step's programs, which what else the machine does hardly changes.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from acceleration import CACHE, debian_builder, three_ways
from anyarch.testing.debian_sources import source_archive

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from acceleration import Found

PLATFORM = "linux/arm64"


class Chain(NamedTuple):
    """What the root has, a source archive, what is run in /src, and the most times native it may take."""

    packages: tuple[str, ...]
    source: str
    script: str
    most: float
    first: int = 1
    """So many builds before those that count: Go's own command has a twin after a first one."""


_GO = "cd */ && HOME=/root CGO_ENABLED=0 go build -trimpath -o ."
CHAINS = {
    "go": Chain(("golang-go",), "gxz", f"{_GO} ./cmd/gxz", 1.4, first=2),
    "go-commands": Chain(("golang-go",), "gxz", f"{_GO} cmd/vet cmd/asm", 1.4, first=2),
    "clang": Chain(("clang", "lld"), "lua", "make -C */src linux CC=clang >/dev/null", 1.3),
}


def measure(chains: Iterable[str] = CHAINS, rounds: int = 1) -> Iterator[tuple[Found, float]]:
    """Each chain three ways, in turn, and what it may take."""
    for name in chains:
        with tempfile.TemporaryDirectory(prefix="anyarch-bench-") as directory:
            yield _measure(Path(directory), name, rounds), CHAINS[name].most


def _measure(top: Path, name: str, rounds: int) -> Found:
    chain = CHAINS[name]
    build = debian_builder(top, PLATFORM, suite="bookworm", packages=chain.packages)
    archive = source_archive(CACHE, chain.source)
    files = {archive.name: archive.read_bytes()}
    dockerfile = (
        f"FROM debian AS work\nADD {archive.name} /src/\nWORKDIR /src\nARG ROUND\n"
        f"RUN {chain.script} && times\n"
        "FROM scratch\nCOPY --from=work /src /src\n"
    )
    return three_ways(build, name, PLATFORM, dockerfile, files, rounds, first=chain.first)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--chain", choices=sorted(CHAINS), action="append")
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    failed = False
    for one, most in measure(options.chain or CHAINS, options.rounds):
        failed = failed or bool(one.different) or one.accelerated > most * one.native
        print(f"{one.times}, at most {most}x; {one.told}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
