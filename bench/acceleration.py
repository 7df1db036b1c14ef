"""Emulated steps with native twins, three ways in one run: native, emulated, accelerated.

    python bench/acceleration.py [--platform linux/arm64] [--package lua] [--rounds 1]

Each package is built from its Debian source in a root with Debian's compiler; measured is the time of the RUN
step alone, in alternating order. The results of emulated and accelerated steps are compared file by file.
Needs root, QEMU, and the network for packages that are not in `.cache` yet. Run by itself: one round of
emulation takes minutes. `bench/run.py --only acceleration` is one round for arm64.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from anyarch.engine.request import Output
from anyarch.testing.builder import Builder
from anyarch.testing.debian_roots import BUILD_PACKAGES, cross_packages, release_context
from anyarch.testing.debian_sources import dockerfile_of, source_archive

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from anyarch.testing.builder import BuiltImage

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache"
BASE = "FROM scratch\nARG TARGETARCH\nADD rootfs-$TARGETARCH.tar /\n"
ARCHITECTURES = {
    "linux/arm64": "arm64",
    "linux/arm/v7": "armhf",
    "linux/riscv64": "riscv64",
    "linux/s390x": "s390x",
    "linux/ppc64le": "ppc64el",
}
WAYS = ("native", "emulated", "accelerated")


class Found(NamedTuple):
    """Seconds of one package's step, and the files that differ between emulated and accelerated."""

    what: str
    native: float
    emulated: float
    accelerated: float
    different: list[str]

    @property
    def times(self) -> str:
        return (
            f"{self.what}: native {self.native:.1f} s, emulated {self.emulated:.1f} s "
            f"({self.emulated / self.native:.1f}x), accelerated {self.accelerated:.1f} s "
            f"({self.accelerated / self.native:.2f}x)"
        )

    @property
    def told(self) -> str:
        if self.different:
            return f"{len(self.different)} files differ: {', '.join(self.different[:5])}"
        return "all files equal"


PACKAGES = ("lua", "zlib", "jq", "re2")


def step_seconds(image: BuiltImage) -> float:
    """How long the RUN step took."""
    from anyarch.solver.events import VertexEvent

    return max(
        event.completed - event.started
        for event in image.events
        if isinstance(event, VertexEvent) and event.completed and event.started and "] RUN " in event.name
    )


def compare(one: BuiltImage, other: BuiltImage) -> list[str]:
    """Files below /src whose contents differ."""
    top = one.path("/src")
    paths = sorted(path.relative_to(top) for path in top.rglob("*") if path.is_file())
    return [
        str(path) for path in paths if (top / path).read_bytes() != (other.path("/src") / path).read_bytes()
    ]


def measure(
    platform: str = "linux/arm64",
    packages: Iterable[str] = PACKAGES,
    rounds: int = 1,
    suite: str = "bookworm",
) -> Iterator[Found]:
    """Each package three ways, in turn."""
    with tempfile.TemporaryDirectory(prefix="anyarch-bench-") as directory:
        build = debian_builder(Path(directory), platform, suite=suite)
        for name in packages:
            archive = source_archive(CACHE, name)
            files = {archive.name: archive.read_bytes()}
            yield three_ways(build, name, platform, dockerfile_of(name), files, rounds)


def debian_builder(
    top: Path,
    platform: str,
    *,
    suite: str,
    packages: Sequence[str] = (),
    base: Sequence[str] = BUILD_PACKAGES,
    build_contexts: Mapping[str, str] | None = None,
) -> Builder:
    """Builds on Debian with a compiler (or what `base` says), and `packages`, for this machine and for
    `platform`, accelerated."""
    debian = ARCHITECTURES[platform]
    context = release_context(
        CACHE, top / "roots", ("amd64", debian), suite=suite, packages=packages, base=base
    )
    image = Builder(top / "base", context=str(context))
    output = Output("oci", str(top / "layout"), {"tar": "false"})
    image(BASE, platform=("linux/amd64", platform), outputs=(output,))
    return Builder(
        top / "build",
        build_contexts={"debian": f"oci-layout://{top}/layout", **(build_contexts or {})},
        accelerate=f"cross,packages={cross_packages(CACHE, debian, suite=suite)}",
    )


def three_ways(
    build: Builder, name: str, platform: str, dockerfile: str, files: Mapping[str, bytes], rounds: int
) -> Found:
    """One recipe native, emulated and accelerated, in turn."""
    times: dict[str, list[float]] = {way: [] for way in WAYS}
    images: dict[str, BuiltImage] = {}
    for number in range(rounds + 1):  # the first time makes the twins: not counted
        for way in WAYS if number else ("accelerated",):
            images[way] = build(
                dockerfile,
                platform="linux/amd64" if way == "native" else platform,
                files=files,
                build_args={"ROUND": str(number)},
                **({} if way == "accelerated" else {"accelerate": "off"}),
            )
            if number:
                times[way].append(step_seconds(images[way]))
    native, emulated, accelerated = (statistics.median(times[way]) for way in WAYS)
    different = compare(images["emulated"], images["accelerated"])
    return Found(f"{name} for {platform}", native, emulated, accelerated, different)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--platform", choices=sorted(ARCHITECTURES), default="linux/arm64")
    parser.add_argument("--package", choices=sorted(PACKAGES), action="append")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--suite", choices=("bookworm", "trixie"), default="bookworm")
    options = parser.parse_args()
    failed = False
    for one in measure(options.platform, options.package or PACKAGES, options.rounds, options.suite):
        failed = failed or bool(one.different)
        print(f"{one.times}; {one.told}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
