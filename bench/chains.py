"""Tool chains of languages in emulated steps, three ways in one run: native, emulated, accelerated.

    python bench/chains.py [--chain go] [--rounds 1]

As `acceleration`, with Debian's Go and clang in the base image of both platforms. Go builds two of its own
programs, clang builds lua.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import acceleration
from acceleration import BASE, CACHE, WAYS, Found
from anyarch.engine.request import Output
from anyarch.testing.builder import Builder
from anyarch.testing.debian_roots import cross_packages, release_context
from anyarch.testing.debian_sources import source_archive

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from anyarch.testing.builder import BuiltImage

PLATFORM = "linux/arm64"


class Chain(NamedTuple):
    """What the root has, a source archive, what is run in /src, and the most times native it may take."""

    packages: tuple[str, ...]
    source: str
    script: str
    most: float


CHAINS = {
    "go": Chain(
        ("golang-go",), "", "HOME=/root CGO_ENABLED=0 go build -trimpath -o /src/ cmd/vet cmd/asm", 1.4
    ),
    "clang": Chain(("clang", "lld"), "lua", "make -C */src linux CC=clang >/dev/null", 1.3),
}


def measure(chains: Iterable[str] = CHAINS, rounds: int = 1) -> Iterator[tuple[Found, float]]:
    """Each chain three ways, in turn, and what it may take."""
    for name in chains:
        with tempfile.TemporaryDirectory(prefix="anyarch-bench-") as directory:
            yield _measure(Path(directory), name, rounds), CHAINS[name].most


def _measure(top: Path, name: str, rounds: int) -> Found:
    chain = CHAINS[name]
    context = release_context(
        CACHE, top / "roots", ("amd64", "arm64"), suite="bookworm", packages=chain.packages
    )
    base = Builder(top / "base", context=str(context))
    output = Output("oci", str(top / "layout"), {"tar": "false"})
    base(BASE, platform=("linux/amd64", PLATFORM), outputs=(output,))
    build = Builder(
        top / "build",
        build_contexts={"debian": f"oci-layout://{top}/layout"},
        accelerate=f"cross,packages={cross_packages(CACHE, 'arm64', suite='bookworm')}",
    )
    files = {"empty": b""}
    if chain.source:
        archive = source_archive(CACHE, chain.source)
        files = {archive.name: archive.read_bytes()}
    dockerfile = (
        f"FROM debian AS work\nADD {next(iter(files))} /src/\nWORKDIR /src\nARG ROUND\nRUN {chain.script}\n"
        "FROM scratch\nCOPY --from=work /src /src\n"
    )
    times: dict[str, list[float]] = {way: [] for way in WAYS}
    images: dict[str, BuiltImage] = {}
    for number in range(rounds + 1):  # the first time makes the twins: not counted
        for way in WAYS if number else ("accelerated",):
            images[way] = build(
                dockerfile,
                platform="linux/amd64" if way == "native" else PLATFORM,
                files=files,
                build_args={"ROUND": str(number)},
                **({} if way == "accelerated" else {"accelerate": "off"}),
            )
            if number:
                times[way].append(acceleration.step_seconds(images[way]))
    native, emulated, accelerated = (statistics.median(times[way]) for way in WAYS)
    different = acceleration.compare(images["emulated"], images["accelerated"])
    return Found(f"{name} for {PLATFORM}", native, emulated, accelerated, different)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--chain", choices=sorted(CHAINS), action="append")
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    failed = False
    for one, most in measure(options.chain or CHAINS, options.rounds):
        failed = failed or bool(one.different) or one.accelerated > most * one.native
        print(
            f"{one.what}: native {one.native:.1f} s, emulated {one.emulated:.1f} s "
            f"({one.emulated / one.native:.1f}x), accelerated {one.accelerated:.1f} s "
            f"({one.accelerated / one.native:.2f}x, at most {most}x); {one.told}",
            flush=True,
        )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
