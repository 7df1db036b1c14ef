"""A step three ways in one run, in turn: native, emulated, and emulated with native twins.

What counts is the processor's time, as the step's shell tells it: that is the same on a machine which does
other things. What the emulated and the accelerated step left is compared path by path.
"""

from __future__ import annotations

import hashlib
import io
import re
import statistics
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from anyarch.engine.request import Output
from anyarch.testing.builder import Builder
from anyarch.testing.debian_roots import BUILD_PACKAGES, cross_packages, release_context

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

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
"""The platforms that have twins of compilers, and what Debian calls their architectures."""
ROUNDS = 3
WAYS = ("native", "emulated", "accelerated")
_TIMES = re.compile(rb"^([0-9]+)m([0-9.]+)s ([0-9]+)m([0-9.]+)s\r?$", re.MULTILINE)


class Found(NamedTuple):
    """What a step took each way, in seconds of the processor; the paths that emulated and accelerated left in
    another state; and the most it may take accelerated, times `base`, which is one of the other two."""

    what: str
    platform: str
    native: float
    emulated: float
    accelerated: float
    different: list[str]
    most: float
    base: str = "native"

    @property
    def times(self) -> float:
        return self.accelerated / (self.native if self.base == "native" else self.emulated)

    @property
    def met(self) -> bool:
        return self.times <= self.most and not self.different

    @property
    def told(self) -> str:
        if self.different:
            return f"{len(self.different)} differ: {', '.join(self.different[:5])}"
        return "equal"


def suite_of(platform: str) -> str:
    """The release that is measured: riscv64 is in none before trixie."""
    return "trixie" if platform == "linux/riscv64" else "bookworm"


def debian_builder(
    top: Path,
    platform: str,
    *,
    packages: Sequence[str] = (),
    base: Sequence[str] = BUILD_PACKAGES,
    build_contexts: Mapping[str, str] | None = None,
) -> Builder:
    """Builds on Debian with a compiler (or what `base` says), and `packages`, for this machine and for
    `platform`, accelerated."""
    debian, suite = ARCHITECTURES[platform], suite_of(platform)
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
    most: float,
    *,
    rounds: int = ROUNDS,
    first: int = 1,
    base: str = "native",
) -> Found:
    """One recipe native, emulated and accelerated, in turn, after `first` accelerated builds that are not
    counted: they make the twins. What is emulated takes part in the first round only, unless it is `base`:
    it takes many times as long as the others, and nothing is measured by it. The last layer is what is
    compared."""
    times: dict[str, list[float]] = {way: [] for way in WAYS}
    images: dict[str, BuiltImage] = {}
    for number in range(1 - first, rounds + 1):
        for way in WAYS:
            if (number < 1 and way != "accelerated") or (number > 1 and way == "emulated" != base):
                continue
            images[way] = build(
                dockerfile,
                platform="linux/amd64" if way == "native" else platform,
                files=files,
                build_args={"ROUND": str(number)},
                **({} if way == "accelerated" else {"accelerate": "off"}),
            )
            if number > 0:
                times[way].append(step_processor_seconds(images[way]))
    native, emulated, accelerated = (statistics.median(times[way]) for way in WAYS)
    different = compare(images["emulated"], images["accelerated"])
    return Found(name, platform, native, emulated, accelerated, different, most, base)


def step_processor_seconds(image: BuiltImage) -> float:
    """What the last command of the step, the shell's `times`, tells: the shell's own, and what it started."""
    from anyarch.solver.events import LogEvent

    told = b"".join(event.data for event in image.events if isinstance(event, LogEvent))
    lines = _TIMES.findall(told)[-2:]
    assert len(lines) == 2, "the step does not end with `times`"
    return sum(60 * int(line[each]) + float(line[each + 1]) for line in lines for each in (0, 2))


def compare(one: BuiltImage, other: BuiltImage) -> list[str]:
    """Paths of the last layer that are not the same in both: kind, mode, owner, link or content."""
    ours, theirs = _paths(one), _paths(other)
    return sorted(path for path in ours.keys() | theirs.keys() if ours.get(path) != theirs.get(path))


def _paths(image: BuiltImage) -> dict[str, tuple[object, ...]]:
    raw = image.blob(image.manifest().layers[-1].digest)
    found: dict[str, tuple[object, ...]] = {}
    with tarfile.open(fileobj=io.BytesIO(raw)) as archive:
        for each in archive:
            file = archive.extractfile(each) if each.isreg() else None
            digest = hashlib.sha256(file.read()).hexdigest() if file else ""
            found[each.name] = (each.type, each.mode, each.uid, each.gid, each.linkname, digest)
    return found
