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
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from anyarch.engine.request import Output
from anyarch.testing.builder import Builder
from anyarch.testing.debian_archive import machine_mirror
from anyarch.testing.debian_roots import COMPILER_PACKAGES, TOOL_PACKAGES, kept_packages, root_context

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from anyarch.testing.builder import BuiltImage

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache"
BASE = "FROM scratch\nARG TARGETARCH\nADD rootfs-$TARGETARCH.tar /\n"
ARCHITECTURES = {
    "linux/arm64": "arm64",
    "linux/arm/v7": "armhf",
    "linux/s390x": "s390x",
    "linux/ppc64le": "ppc64el",
}
WAYS = ("native", "emulated", "accelerated")


class Package(NamedTuple):
    """A source archive in Debian's pool, and how its first directory is built."""

    source: str
    script: str


class Found(NamedTuple):
    """Seconds of one package's step, and the files that differ between emulated and accelerated."""

    what: str
    native: float
    emulated: float
    accelerated: float
    different: list[str]

    @property
    def told(self) -> str:
        if self.different:
            return f"{len(self.different)} files differ: {', '.join(self.different[:5])}"
        return "all files equal"


PACKAGES = {
    "lua": Package("l/lua5.4/lua5.4_5.4.4.orig.tar.gz", "make -C src linux"),
    "zlib": Package("z/zlib/zlib_1.2.13.dfsg.orig.tar.bz2", "./configure && make -j2"),
}


def source_of(package: Package) -> Path:
    """The archive, kept in the cache."""
    path = CACHE / "sources" / package.source.rpartition("/")[2]
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with urllib.request.urlopen(f"{machine_mirror()}/pool/main/{package.source}") as answer:
            path.write_bytes(answer.read())
    return path


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
    platform: str = "linux/arm64", packages: Iterable[str] = PACKAGES, rounds: int = 1
) -> Iterator[Found]:
    """Each package three ways, in turn."""
    debian = ARCHITECTURES[platform]
    name = "compilers" if debian == "arm64" else f"compilers-{debian}"
    context = root_context(CACHE, name, ("amd64", debian), (*TOOL_PACKAGES, *COMPILER_PACKAGES))
    with tempfile.TemporaryDirectory(prefix="anyarch-bench-") as directory, kept_packages(CACHE):
        base = Builder(Path(directory) / "base", context=str(context))
        layout = Path(directory) / "layout"
        output = Output("oci", str(layout), {"tar": "false"})
        base(BASE, platform=("linux/amd64", platform), outputs=(output,))
        build = Builder(Path(directory) / "build", build_contexts={"debian": f"oci-layout://{layout}"})
        for package in packages:
            yield _measure(build, platform, package, rounds)


def _measure(build: Builder, platform: str, name: str, rounds: int) -> Found:
    package = PACKAGES[name]
    archive = source_of(package)
    dockerfile = (
        f"FROM debian AS work\nENV SOURCE_DATE_EPOCH=0\nADD {archive.name} /src/\nARG ROUND\n"
        f"RUN cd /src/*/ && ({package.script}) >/dev/null\n"
        "FROM scratch\nCOPY --from=work /src /src\n"
    )
    times: dict[str, list[float]] = {way: [] for way in WAYS}
    images: dict[str, BuiltImage] = {}
    for number in range(rounds + 1):  # the first time makes the twins: not counted
        for way in WAYS if number else ("accelerated",):
            images[way] = build(
                dockerfile,
                platform="linux/amd64" if way == "native" else platform,
                files={archive.name: archive.read_bytes()},
                accelerate="cross" if way == "accelerated" else "off",
                build_args={"ROUND": str(number)},
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
    options = parser.parse_args()
    failed = False
    for one in measure(options.platform, options.package or PACKAGES, options.rounds):
        failed = failed or bool(one.different)
        print(
            f"{one.what}: native {one.native:.1f} s, emulated {one.emulated:.1f} s "
            f"({one.emulated / one.native:.1f}x), accelerated {one.accelerated:.1f} s "
            f"({one.accelerated / one.native:.2f}x); {one.told}",
            flush=True,
        )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
