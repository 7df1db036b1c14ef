"""clang, lld and LLVM's tools with native twins give the same bytes as emulated ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from anyarch.testing.builder import Builder
from tests.engine.test_accelerate import ARM, differing, equal_files, log, notes
from tests.engine.test_accelerate_cross import CXX, C, base_image
from tests.engine.test_accelerate_go import chain_image, chain_packages

if TYPE_CHECKING:
    from pathlib import Path

    from anyarch.testing.builder import BuiltImage

# LLVM of two architectures is 150 MB to fetch, and emulating it takes its time
pytestmark = [pytest.mark.root, pytest.mark.emulation, pytest.mark.slow]

LIBRARIES = (
    *("libclang-cpp14", "libllvm14", "libbsd0", "libc6", "libedit2", "libffi8", "libgcc-s1", "libicu72"),
    *("liblzma5", "libmd0", "libstdc++6", "libtinfo6", "libxml2", "libz3-4", "zlib1g"),
)
CONSTANTS = "#include <math.h>\n" + "".join(
    f"double {name}_{number}(void) {{ return {name}({number}.1{arguments}); }}\n"
    for name, arguments in (("sin", ""), ("exp", ""), ("log", ""), ("tan", ""), ("pow", ", 0.7"))
    for number in range(40)
)
SOURCES = {"c.c": C, "cc.cc": CXX, "constants.c": CONSTANTS, "local.h": "#define LOCAL 1\n"}
DOCKERFILE = """
FROM debian AS work
COPY local.h /usr/local/include/
COPY . /src/
WORKDIR /src
RUN {script}
FROM scratch
COPY --from=work /src /src
"""


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory, cache_directory: Path) -> Path:
    """What twins of LLVM are made of."""
    directory = tmp_path_factory.mktemp("packages")
    return chain_packages(cache_directory, directory, ("clang-14", "lld-14", "llvm-14", *LIBRARIES))


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, cache_directory: Path, packages: Path) -> Builder:
    """Above a base image in which only the foreign side has LLVM."""
    base = chain_image(cache_directory, tmp_path_factory.mktemp("debian"), ("clang", "lld", "llvm"))
    return Builder(
        tmp_path_factory.mktemp("accelerate"),
        build_contexts={"debian": base},
        accelerate=f"cross,packages={packages}",
    )


def run(build: Builder, script: str, **request: object) -> tuple[BuiltImage, str]:
    """One RUN step in /src, which is all that is kept of it; and its log."""
    image = build(DOCKERFILE.format(script=script), platform=ARM, files=SOURCES, **request)
    return image, log(image)


@pytest.mark.parametrize(
    ("suite", "architecture", "platform"),
    [
        ("trixie", "riscv64", "linux/riscv64"),
        ("bookworm", "s390x", "linux/s390x"),
        ("bookworm", "ppc64el", "linux/ppc64le"),
    ],
)
def test_every_target_of_64_bits_has_twins_that_make_the_same(
    tmp_path: Path, cache_directory: Path, suite: str, architecture: str, platform: str
) -> None:
    """Native LLVM is in the base image for this machine."""
    base = base_image(
        cache_directory, tmp_path / "debian", suite, architecture, platform, packages=("clang", "lld")
    )
    build = Builder(tmp_path / "build", build_contexts={"debian": base}, accelerate="cross")
    script = (
        "clang -O2 -g -MD -c c.c -o c.o && clang++ -O2 -g -c cc.cc -o cc.o && clang c.c -o both && "
        "clang -O2 -S constants.c -o constants.s && clang++ cc.o -o cc && ./both && ./cc > cc.out"
    )
    dockerfile = DOCKERFILE.format(script=script)
    fast = build(dockerfile, platform=platform, files=SOURCES)
    plain = build(dockerfile, platform=platform, files=SOURCES, accelerate="off")

    assert "cc.out" in equal_files(plain, fast)
    assert [line for line in notes(log(fast)).splitlines() if "clang" in line or "llvm" in line] == []


def test_objects_libraries_and_programs_are_equal_byte_by_byte(shared: Builder) -> None:
    script = (
        "clang -O2 -g -MD -c c.c -o c.o && clang++ -O2 -c cc.cc -o cc.o && clang c.c -o both && "
        "clang -O2 -S constants.c -o constants.s && clang++ cc.o -o cc && clang -fuse-ld=lld c.o -o lld && "
        "llvm-ar rc lib.a c.o && llvm-strip -o stripped cc && ./both && ./lld > lld.out && ./cc > cc.out"
    )
    plain, _ = run(shared, script, accelerate="off")
    fast, told = run(shared, script)

    names = ("c.o", "c.d", "cc.o", "both", "constants.s", "cc", "lld", "lib.a", "stripped", "lld.out")
    assert differing(fast, plain, names) == []
    assert "/usr/lib/llvm-14" not in notes(told)


@pytest.mark.parametrize(
    "options", ["-march=native", "-flto", "--target=x86_64-linux-gnu", "@options", "-v", "-- c.c"]
)
def test_arguments_that_only_the_emulated_one_understands_are_left_to_it(
    shared: Builder, options: str
) -> None:
    _, told = run(shared, f"echo > options; clang {options} -c c.c -o c.o || true")

    (line,) = [line for line in notes(told).splitlines() if "/clang was emulated" in line]
    assert "because an argument asks for what only the emulated one knows" in line


def test_verify_runs_clang_both_ways_and_finds_the_same(shared: Builder, packages: Path) -> None:
    image, told = run(
        shared,
        "clang -O2 -g -c c.c && clang++ -O2 -c cc.cc && llvm-ar rcD lib.a c.o && clang -fuse-ld=lld c.o -o c",
        accelerate=f"verify,packages={packages}",
    )

    assert "accelerate: verified: the files are the same with and without native twins" in told
    (step,) = image.result.metadata["anyarch.acceleration"]["steps"].values()
    assert step["native"] >= 6  # sh, clang for each source (no process for cc1), llvm-ar, clang, lld
    assert step["emulated"] == {}
