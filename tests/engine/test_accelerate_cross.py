"""Compilers with native twins give the same bytes as emulated ones."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from anyarch.engine.request import Output
from anyarch.testing.builder import Builder
from anyarch.testing.debian_roots import cross_packages, release_context
from tests.engine.test_accelerate import ARM, BASE, BOTH, differing, log, notes

if TYPE_CHECKING:
    from pathlib import Path

    from anyarch.testing.builder import BuiltImage

# the compilers of two architectures and their lists are 150 MB to fetch, and emulating one takes its time
pytestmark = [pytest.mark.root, pytest.mark.emulation, pytest.mark.slow, pytest.mark.timeout(1800)]

C = """
#include <stddef.h>
#include <stdio.h>
#include <local.h>
static int table[] = {3, 1, 4, 1, 5, 9, 2, 6};
int main(int argc, char **argv) {
    char text[64];
    int sum = LOCAL;
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) sum += table[i] * argc;
    snprintf(text, sizeof text, "%d %s %s", sum, __VERSION__, __FILE__);
    return puts(text) < 0;
}
"""
CXX = """
#include <algorithm>
#include <iostream>
#include <string>
#include <vector>
template <class T> T twice(T x) { return x + x; }
int main() {
    std::vector<std::string> v{"b", "a", twice(std::string("c"))};
    std::sort(v.begin(), v.end());
    for (auto const &s : v) std::cout << s << '\\n';
}
"""
MAKEFILE = """
all: c cc lib.a lib.so
%.o: %.c ; $(CC) -O2 -g -fPIC -Wall -MD -c $< -o $@
cc.o: cc.cc ; $(CXX) -O2 -g -c $< -o $@
c: c.o ; $(CC) $^ -o $@
cc: cc.o ; $(CXX) $^ -o $@
lib.a: c.o ; $(AR) rcD $@ $^ && ranlib -D $@
lib.so: c.o ; $(CC) -shared -Wl,-soname,lib.so.1 $^ -o $@ -lm && strip -o stripped $@
"""
SOURCES = {"c.c": C, "cc.cc": CXX, "Makefile": MAKEFILE, "local.h": "#define LOCAL 1\n"}
DOCKERFILE = """
FROM debian AS work
ENV SOURCE_DATE_EPOCH=0
COPY local.h /usr/local/include/
COPY c.c cc.cc Makefile /src/
WORKDIR /src
RUN {script}
FROM scratch
COPY --from=work /src /src
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, cache_directory: Path) -> str:
    """The build context with the base image."""
    return base_image(cache_directory, tmp_path_factory.mktemp("debian"), "bookworm", "arm64", ARM)


def base_image(
    cache: Path,
    directory: Path,
    suite: str,
    architecture: str,
    platform: str,
    *,
    packages: tuple[str, ...] = (),
) -> str:
    """A release with compilers for this machine and another, as a build context."""
    architectures = ("amd64", architecture)
    context = release_context(cache, directory / "roots", architectures, suite=suite, packages=packages)
    builder = Builder(directory, context=str(context))
    layout = directory / "layout"
    outputs = (Output("oci", str(layout), {"tar": "false"}),)
    builder(BASE, platform=("linux/amd64", platform), outputs=outputs)
    return f"oci-layout://{layout}"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, base: str, packages: Path) -> Builder:
    """Builds with compilers' twins, which are made once for all tests."""
    return Builder(
        tmp_path_factory.mktemp("accelerate"),
        build_contexts={"debian": base},
        accelerate=f"cross,packages={packages}",
    )


@pytest.fixture(scope="module")
def packages(cache_directory: Path) -> Path:
    """What twins of compilers are made of."""
    return cross_packages(cache_directory, "arm64", suite="bookworm")


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing can be fetched by apt."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/apt-get").write_text("#!/bin/sh\necho E: no network >&2; exit 100\n")
    (tmp_path / "bin/apt-get").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")


def run(build: Builder, script: str, **request: object) -> tuple[BuiltImage, str]:
    """One RUN step in /src, which is all that is kept of it; and its log."""
    image = build(DOCKERFILE.format(script=script), platform=ARM, files=SOURCES, **request)
    return image, log(image)


def test_objects_libraries_and_programs_are_equal_byte_by_byte(shared: Builder) -> None:
    script = "make -j2 CC=gcc CXX=g++ && ./c > c.out && ./cc > cc.out"
    plain, _ = run(shared, script, accelerate="off")
    fast, told = run(shared, script)

    names = ("c.o", "c.d", "cc.o", "c", "cc", "lib.a", "lib.so", "stripped", "c.out", "cc.out")
    assert differing(fast, plain, names) == []
    assert "cc1 was emulated" not in told
    assert "gcc-12 was emulated" not in told
    assert "ld.bfd was emulated" not in told


@pytest.mark.parametrize(
    "options",
    [
        *("-march=native", "-flto -flto-compression-level=9", "-fstack-protector-strong", "@quoted"),
        *("-fplugin=none", "-v", "@native"),
    ],
)
def test_options_that_only_the_emulated_compiler_knows_are_left_to_it(shared: Builder, options: str) -> None:
    _, told = run(shared, f"echo -march=native > native; echo \"-O'1'\" > quoted; gcc {options} -c c.c; true")

    assert "an argument asks for what only the emulated one knows" in notes(told), told


def test_the_compiler_says_what_it_is_emulated(shared: Builder) -> None:
    image, _ = run(shared, "gcc --version > v; gcc -dumpmachine > m; gcc -print-search-dirs > s; ld -v > l")

    assert image.read_text("/src/v").splitlines()[0].endswith("(Debian 12.2.0-14+deb12u1) 12.2.0")
    assert image.read_text("/src/m") == "aarch64-linux-gnu\n"


def test_twins_need_no_network_once_they_are_there(shared: Builder, request: pytest.FixtureRequest) -> None:
    first, _ = run(shared, "gcc -c c.c -o 1.o")
    request.getfixturevalue("no_network")
    second, told = run(shared, "gcc -c c.c -o 2.o")

    assert "no network" not in told
    assert ran(second) == ran(first)
    assert ran(second)[1] >= 4  # sh, gcc, cc1, as


@pytest.mark.usefixtures("no_network")
def test_without_compilers_the_log_says_so_and_tools_alone_have_twins(tmp_path: Path, base: str) -> None:
    build = Builder(tmp_path / "build", build_contexts={"debian": base}, accelerate="cross")
    image, told = run(build, "cat c.c > copy; as --version > version")

    assert "accelerate: no cross compilers could be fetched: apt-get -q update failed: E: no network" in told
    assert image.read_text("/src/copy") == C
    assert ran(image)[1] == 2  # sh and cat


def ran(image: BuiltImage) -> tuple[str, int]:
    """The twins of the image's only step, and how many of its programs ran natively."""
    (step,) = image.result.metadata["anyarch.acceleration"]["steps"].values()
    return step["twins"], step["native"]


def test_an_upgraded_compiler_is_emulated(shared: Builder) -> None:
    """A step that replaces a program goes on with the new one."""
    _, told = run(
        shared,
        "d=/usr/lib/gcc/aarch64-linux-gnu/12; cp $d/cc1 /tmp/new; printf x >> /tmp/new; mv /tmp/new $d/cc1; "
        "gcc -c c.c -o 1.o",
    )

    assert "/cc1 was emulated 1 times because the file is not the package's any more" in notes(told)


TARGETS = [
    *[
        ("trixie", *each)
        for each in (("arm64", ARM), ("armhf", "linux/arm/v7"), ("riscv64", "linux/riscv64"))
    ],
    *[
        ("bookworm", *each)
        for each in (("armhf", "linux/arm/v7"), ("s390x", "linux/s390x"), ("ppc64el", "linux/ppc64le"))
    ],
]
OPTIONS = ("-O0", "-O2", "-Os", "-O3 -ffast-math", "-O2 -fPIC -fno-plt", "-O2 -g3 -fno-omit-frame-pointer")
ALL_OPTIONS = "; ".join(
    f"gcc {options} -c c.c -o {number}.o; g++ {options} -c cc.cc -o cc{number}.o"
    for number, options in enumerate(OPTIONS)
)

# what build systems ask for
ANSWERS = """
for c in gcc g++ cpp; do for o in --version -dumpmachine -dumpversion -dumpfullversion -print-search-dirs \\
-print-libgcc-file-name -print-multi-lib -print-multi-directory -print-multiarch -print-multi-os-directory \\
-print-prog-name=ld -print-prog-name=cc1 -print-prog-name=none -print-file-name=libc.so -qversion -V --help \\
-print-file-name=liblto_plugin.so -print-file-name=none -print-file-name=include --print-file-name=libgcc.a \\
--print-multiarch --print-prog-name=as --target-help --version=x
do echo "$c $o"; $c $o; done; done
LIBRARY_PATH=/src:/lib gcc -print-search-dirs; LIBRARY_PATH=/src gcc -print-file-name=c.c
cd /usr/bin; ./gcc -print-prog-name=cc1; ./gcc -print-search-dirs; cd /src; ln -s /usr/bin/gcc other
./other --version
for t in as ld ar nm ranlib strip objcopy objdump readelf size strings addr2line c++filt
do $t --version; $t -V < /dev/null; done; as -v < /dev/null; ld -v
"""


@pytest.mark.parametrize(("suite", "architecture", "platform"), TARGETS)
def test_the_compilers_of_every_target_have_twins_that_make_the_same(
    tmp_path: Path, cache_directory: Path, suite: str, architecture: str, platform: str
) -> None:
    base = base_image(cache_directory, tmp_path / "debian", suite, architecture, platform)
    packages = cross_packages(cache_directory, architecture, suite=suite)
    build = Builder(
        tmp_path / "build", build_contexts={"debian": base}, accelerate=f"cross,packages={packages}"
    )
    script = f"make -j2 CC=gcc CXX=g++ && ./c > c.out && ./cc > cc.out; {ALL_OPTIONS}"
    files = {**SOURCES, "ask": ANSWERS}
    dockerfile = DOCKERFILE.format(script=f"{script}; sh ask > answers 2>&1")
    dockerfile = dockerfile.replace(" Makefile /src/", " Makefile ask /src/")
    fast = build(dockerfile, platform=platform, files=files)
    plain = build(dockerfile, platform=platform, files=files, accelerate="off")

    told = [line for line in notes(log(fast)).splitlines() if "emulated" in line]
    # where bytecode is left to the emulated compiler, so is what reads symbols in it; and optimized code with
    # debug information to an assembler of 32 bits
    other = {"s390x": ("-ld.bfd ", "-nm "), "armhf": ("-ld.bfd ", "-nm ", "-as ")}.get(architecture, ())
    assert [line for line in told if not any(name in line for name in other)] == []
    # a driver, a compiler and an assembler for each object, those apart; three for each of the links; strip
    assert ran(fast)[1] >= 3 * (2 + 2 * len(OPTIONS)) + 3 * 3 + 1 - (4 if "-as " in other else 0)
    made = {path.name: path.read_bytes() for path in plain.path("/src").iterdir() if not path.is_symlink()}
    assert len(made) >= 24
    assert [name for name, raw in made.items() if fast.path(f"/src/{name}").read_bytes() != raw] == []


def test_ubuntu_is_known_by_its_name(tmp_path: Path, base: str, packages: Path) -> None:
    """Its archive cannot be had everywhere: packages of Debian under Ubuntu's name show that nothing but the
    name decides on that."""
    make = Builder(tmp_path / "ubuntu", build_contexts={"debian": base})
    layout = tmp_path / "layout"
    outputs = (Output("oci", str(layout), {"tar": "false"}),)
    files = {"os-release": "ID=ubuntu\nVERSION_CODENAME=noble\n"}
    make("FROM debian\nCOPY os-release /etc/os-release\n", platform=BOTH, files=files, outputs=outputs)
    build = Builder(
        tmp_path / "build",
        build_contexts={"debian": f"oci-layout://{layout}"},
        accelerate=f"cross,packages={packages}",
    )
    image, told = run(build, "gcc -O2 -c c.c -o 1.o")

    assert "no cross compilers" not in told
    assert ran(image)[1] >= 4  # sh, gcc, cc1, as


def test_without_any_network_packages_and_twins_come_from_the_disk(
    tmp_path: Path, base: str, packages: Path
) -> None:
    """In an empty network namespace: first from a directory of packages, then from the store alone."""
    (tmp_path / "context").mkdir()
    for name, text in SOURCES.items():
        (tmp_path / "context" / name).write_text(text)
    told = []
    for number, accelerate in enumerate([f"cross,packages={packages}"] * 2):
        (tmp_path / "context/Dockerfile").write_text(DOCKERFILE.format(script=f"gcc -c c.c -o {number}.o"))
        done = subprocess.run(
            [
                *("unshare", "--net", sys.executable, "-m", "anyarch", "build", "--progress=plain"),
                *(f"--build-context=debian={base}", f"--platform={ARM}", f"--accelerate={accelerate}"),
                *("--output", f"{tmp_path}/out{number}", str(tmp_path / "context")),
            ],
            env={**os.environ, "ANYARCH_ROOT": str(tmp_path / "store")},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert (tmp_path / f"out{number}/src/{number}.o").exists()
        told.append(re.findall(r"accelerate: runs of native programs: (\d+)", done.stderr))
    assert [int(one) >= 4 for (one,) in told] == [True, True]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_library_that_only_native_programs_of_apt_load_does_not_matter(
    tmp_path: Path, cache_directory: Path
) -> None:
    """Debian's apt filters system calls on amd64, and knows no libseccomp on riscv64."""
    platform = "linux/riscv64"
    base = base_image(cache_directory, tmp_path / "debian", "trixie", "riscv64", platform, packages=("apt",))
    build = Builder(tmp_path / "build", build_contexts={"debian": base}, accelerate="tools")
    recipe = (
        "FROM debian AS work\nRUN <<END\nset -e\nmkdir /src\n"
        r"printf '600 URI Acquire\nURI: file:/etc/debian_version\nFilename: /x\n\n' >/src/asked"
        "\n"
        "/usr/lib/apt/methods/file </src/asked >/src/said\nEND\nFROM scratch\nCOPY --from=work /src /src\n"
    )
    fast = build(recipe, platform=platform)
    plain = build(recipe, platform=platform, accelerate="off")

    assert "methods/" not in notes(log(fast))
    assert b"SHA256-Hash" in plain.path("/src/said").read_bytes()
    assert differing(fast, plain, ["said"]) == []
