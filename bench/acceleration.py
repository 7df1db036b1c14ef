"""Emulated steps with native twins, three ways in one run: native, emulated, accelerated.

    python bench/acceleration.py [--platform linux/arm64] [--package lua] [--rounds 1]

Each package is built from its Debian source in a root with Debian's compiler; measured is the RUN step alone,
in alternating order. What counts is the processor's time, as the step's shell tells it: that is the same on a
machine which does other things. The results of emulated and accelerated steps are compared file by file.
Needs root, QEMU, and the network for packages that are not in `.cache` yet. Run by itself: one round of
emulation takes minutes. `bench/run.py --only acceleration` is one round for arm64; `--platform` says another.
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from anyarch.engine.request import Output
from anyarch.testing.builder import Builder
from anyarch.testing.debian_roots import BUILD_PACKAGES, cross_packages, release_context
from anyarch.testing.debian_sources import SOURCES, dockerfile_of, source_archive

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
SUITE, SUITES = "bookworm", {"linux/riscv64": "trixie"}
"""The release for each platform."""


class Found(NamedTuple):
    """Seconds of the processor that one package's step took, those that went by, and the files that differ
    between emulated and accelerated."""

    what: str
    native: float
    emulated: float
    accelerated: float
    different: list[str]
    passed: tuple[float, ...]

    @property
    def times(self) -> str:
        return (
            f"{self.what}: CPU native {self.native:.1f} s, emulated {self.emulated:.1f} s "
            f"({self.emulated / self.native:.1f}x), accelerated {self.accelerated:.1f} s "
            f"({self.accelerated / self.native:.2f}x); "
            f"passed {', '.join(f'{one:.1f}' for one in self.passed)} s"
        )

    @property
    def told(self) -> str:
        if self.different:
            return f"{len(self.different)} files differ: {', '.join(self.different[:5])}"
        return "all files equal"


PACKAGES = ("lua", "zlib", "jq", "fmt")
MOST = 1.3
"""Times native."""
_TIMES = re.compile(rb"^([0-9]+)m([0-9.]+)s ([0-9]+)m([0-9.]+)s\r?$", re.MULTILINE)


def step_processor_seconds(image: BuiltImage) -> float:
    """What the last command of the step, the shell's `times`, tells: the shell's own, and what it started."""
    from anyarch.solver.events import LogEvent

    told = b"".join(event.data for event in image.events if isinstance(event, LogEvent))
    lines = _TIMES.findall(told)[-2:]
    assert len(lines) == 2, "the step does not end with `times`"
    return sum(60 * int(line[each]) + float(line[each + 1]) for line in lines for each in (0, 2))


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
) -> Iterator[Found]:
    """Each package three ways, in turn."""
    suite = SUITES.get(platform, SUITE)
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
    build: Builder,
    name: str,
    platform: str,
    dockerfile: str,
    files: Mapping[str, bytes],
    rounds: int,
    *,
    first: int = 1,
) -> Found:
    """One recipe native, emulated and accelerated, in turn, after `first` accelerated builds that are not
    counted: they make the twins."""
    times: dict[str, list[float]] = {way: [] for way in WAYS}
    passed: dict[str, list[float]] = {way: [] for way in WAYS}
    images: dict[str, BuiltImage] = {}
    for number in range(1 - first, rounds + 1):
        for way in WAYS if number > 0 else ("accelerated",):
            images[way] = build(
                dockerfile,
                platform="linux/amd64" if way == "native" else platform,
                files=files,
                build_args={"ROUND": str(number)},
                **({} if way == "accelerated" else {"accelerate": "off"}),
            )
            if number > 0:
                times[way].append(step_processor_seconds(images[way]))
                passed[way].append(step_seconds(images[way]))
    native, emulated, accelerated = (statistics.median(times[way]) for way in WAYS)
    different = compare(images["emulated"], images["accelerated"])
    clock = tuple(statistics.median(passed[way]) for way in WAYS)
    return Found(f"{name} for {platform}", native, emulated, accelerated, different, clock)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--platform", choices=sorted(ARCHITECTURES), action="append")
    parser.add_argument("--package", choices=sorted(SOURCES), action="append")
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    failed = False
    for platform in options.platform or ("linux/arm64",):
        for one in measure(platform, options.package or PACKAGES, options.rounds):
            failed = failed or bool(one.different) or one.accelerated > MOST * one.native
            print(f"{one.times}, at most {MOST}x; {one.told}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
