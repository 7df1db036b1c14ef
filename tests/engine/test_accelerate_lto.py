"""Real programs that are optimized at link time come out the same, and on two targets are emulated for that.

Minutes each, as `test_accelerate_packages`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from anyarch.testing.debian_sources import dockerfile_of, source_archive
from tests.engine.test_accelerate import equal_files, log, notes
from tests.engine.test_accelerate_cross import DOCKERFILE, SOURCES
from tests.engine.test_accelerate_packages import TARGETS, builders_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from anyarch.testing.builder import Builder

pytestmark = [pytest.mark.root, pytest.mark.emulation, pytest.mark.slow, pytest.mark.timeout(3600)]

SLIM, FAT = "-flto=auto", "-flto=2 -ffat-lto-objects"
# the native compiler of Debian 12 for arm64 lacks a fix, so that much is emulated there
RELEASES = {**TARGETS, "linux/arm64": ("arm64", "trixie")}
CASES = [
    *[("linux/arm64", *each) for each in (("zlib", FAT), ("fmt", SLIM))],
    *[("linux/arm/v7", *each) for each in (("zlib", SLIM), ("fmt", FAT))],  # emulated
    *[("linux/riscv64", *each) for each in (("lua", SLIM), ("fmt", FAT))],
    *[("linux/ppc64le", *each) for each in (("zlib", FAT), ("fmt", SLIM))],
]
ASKS = "an argument asks for what only the emulated one knows"
# names of sections are random without a seed
WRAPPERS = r"""
mkdir -p /usr/local/bin; cd /usr/local/bin
for c in gcc g++; do printf '#!/bin/sh\nexec /usr/bin/%s OPTIONS -frandom-seed=1 "$@"\n' $c > $c; done
chmod 755 gcc g++
"""


@pytest.fixture(scope="module")
def builders(tmp_path_factory: pytest.TempPathFactory, cache_directory: Path) -> Callable[[str], Builder]:
    """Accelerated builds for a platform; its base image and twins are made once for all of its tests."""
    return builders_of(RELEASES, tmp_path_factory, cache_directory)


@pytest.mark.parametrize(("platform", "name", "options"), CASES)
def test_every_file_that_a_build_makes_is_the_same(
    builders: Callable[[str], Builder], cache_directory: Path, platform: str, name: str, options: str
) -> None:
    build = builders(platform)
    archive = source_archive(cache_directory, name)
    files = {archive.name: archive.read_bytes()}
    dockerfile = dockerfile_of(name).replace("set -e\n", "set -e\n" + WRAPPERS.replace("OPTIONS", options))
    fast = build(dockerfile, platform=platform, files=files)
    plain = build(dockerfile, platform=platform, files=files, accelerate="off")

    made = equal_files(plain, fast)
    objects = [plain.path(f"/src/{path}").read_bytes() for path in made if path.endswith((".o", ".lo"))]
    assert len([raw for raw in objects if b".gnu.lto_" in raw]) >= 1
    emulated = [line for line in notes(log(fast)).splitlines() if "emulated" in line]
    told = [line for line in emulated if "/cc1" in line or "lto" in line or "ld.bfd" in line]
    assert bool(told) == (platform == "linux/arm/v7")


SCRIPT = """
echo 'int main(void) { return 0; }' > p.c; gcc p.c -o plain; gcc -frandom-seed=1 -flto -O2 -c c.c -o lto.o
gcc -frandom-seed=1 -flto -ffat-lto-objects -O2 -c c.c -o fat.o; gcc -O2 lto.o -o lto
gcc -flto=2 fat.o -o fat; gcc fat.o -fno-lto -o no -Wl,-t > said 2>&1; gcc lto.o -o t -Wl,-t > said2 2>&1
./lto > out
ar rcs l.a lto.o fat.o; gcc -u main l.a -o a; strip -g l.a; nm lto.o > symbols
echo 'int x(void); int main(void) { return x(); }' > u.c; gcc u.c -o none > said3 2>&1
sed -i 's/cc[A-Za-z0-9]*[.]/cc./' said*
"""


def test_another_byte_order_is_left_to_the_emulated_compiler(
    builders: Callable[[str], Builder],
) -> None:
    """Also where bytecode is met by a linker that nothing tells of it."""
    build = builders("linux/s390x")
    dockerfile = DOCKERFILE.format(script=SCRIPT.strip().replace("\n", "; "))
    fast = build(dockerfile, platform="linux/s390x", files=SOURCES)
    plain = build(dockerfile, platform="linux/s390x", files=SOURCES, accelerate="off")
    told = notes(log(fast))

    equal_files(plain, fast)
    assert f"gcc-12 was emulated 3 times because {ASKS}" in told
    assert f"cc1 was emulated 2 times because {ASKS}" in told
    assert "ld.bfd was emulated" in told
    assert "because the native one failed" in told
