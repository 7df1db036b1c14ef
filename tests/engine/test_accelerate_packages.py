"""Real programs built by native twins are those that emulated compilers make, file by file.

Minutes each: a whole build under emulation is what they are compared with.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import pytest

from anyarch.testing.builder import Builder
from anyarch.testing.debian_roots import cross_packages
from anyarch.testing.debian_sources import WHEEL_PACKAGES, dockerfile_of, source_archive
from tests.engine.test_accelerate import equal_files, log, notes
from tests.engine.test_accelerate_cross import base_image

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

pytestmark = [pytest.mark.root, pytest.mark.emulation, pytest.mark.slow, pytest.mark.timeout(3600)]

TARGETS = {
    "linux/arm64": ("arm64", "bookworm"),
    "linux/arm/v7": ("armhf", "bookworm"),
    "linux/riscv64": ("riscv64", "trixie"),
    "linux/s390x": ("s390x", "bookworm"),
    "linux/ppc64le": ("ppc64el", "bookworm"),
}
ASKS = "an argument asks for what only the emulated one knows"
VARIABLE = "a variable such as LD_PRELOAD, LD_LIBRARY_PATH or a locale was set"
NAMES = ("fmt", "jq", "lua", "markupsafe", "zlib")
CASES = [*[(platform, name) for platform in TARGETS for name in NAMES], ("linux/arm64", "re2")]


def builders_of(
    releases: Mapping[str, tuple[str, str]],
    tmp_path_factory: pytest.TempPathFactory,
    cache_directory: Path,
    packages: tuple[str, ...] = (),
) -> Callable[[str], Builder]:
    """Accelerated builds for a platform, on its release with a compiler and `packages`; base image and twins
    are made once."""

    @cache
    def make(platform: str) -> Builder:
        architecture, suite = releases[platform]
        top = tmp_path_factory.mktemp(architecture)
        base = base_image(cache_directory, top / "debian", suite, architecture, platform, packages=packages)
        compilers = cross_packages(cache_directory, architecture, suite=suite)
        return Builder(
            top / "build", build_contexts={"debian": base}, accelerate=f"cross,packages={compilers}"
        )

    return make


@pytest.fixture(scope="module")
def builders(tmp_path_factory: pytest.TempPathFactory, cache_directory: Path) -> Callable[[str], Builder]:
    """Accelerated builds for a platform; its base image and twins are made once for all packages."""
    return builders_of(TARGETS, tmp_path_factory, cache_directory, WHEEL_PACKAGES)


@pytest.mark.parametrize(("platform", "name"), CASES)
def test_every_file_that_a_build_makes_is_the_same(
    builders: Callable[[str], Builder], cache_directory: Path, platform: str, name: str
) -> None:
    build = builders(platform)
    archive = source_archive(cache_directory, name)
    files = {archive.name: archive.read_bytes()}
    fast = build(dockerfile_of(name), platform=platform, files=files)
    plain = build(dockerfile_of(name), platform=platform, files=files, accelerate="off")

    made = equal_files(plain, fast)
    assert len([path for path in made if path.endswith((".o", ".so", ".lo"))]) >= 1
    emulated = [line for line in notes(log(fast)).splitlines() if "/cc1" in line and "emulated" in line]
    # Python's build asks the compiler one question whose answer only the emulated one knows, and sets
    # C.UTF-8, of which native programs have none in the byte order of s390x.
    expected = VARIABLE if platform == "linux/s390x" else ASKS
    assert all(
        name == "markupsafe" and f"was emulated 1 times because {expected}" in line for line in emulated
    )
