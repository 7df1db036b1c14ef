"""Zig's compiler for C with a native twin makes the same bytes as the emulated one."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, NamedTuple

import pytest

from anyarch.engine.request import Output
from anyarch.testing.builder import Builder
from anyarch.testing.debian_images import zig_context
from anyarch.testing.debian_roots import release_context
from anyarch.testing.debian_sources import source_archive
from tests.engine.test_accelerate import BASE, equal_files, log, notes

if TYPE_CHECKING:
    from pathlib import Path

    from anyarch.testing.builder import BuiltImage

# Zig of two architectures is 160 MB to fetch, and the emulated one takes its time
pytestmark = [pytest.mark.root, pytest.mark.emulation, pytest.mark.slow, pytest.mark.timeout(3600)]

TRIPLES = {"arm64": "aarch64-linux-gnu", "s390x": "s390x-linux-gnu"}
USES = """#include <cstdio>
#include <stdexcept>
#include <vector>
extern "C" long double half(long double, int);
int main(int count, char **) {
    std::vector<long double> all{1.5L, 2.5L};
    try { throw std::runtime_error("thrown"); }
    catch (std::exception const &error) { std::printf("%s %Lf\\n", error.what(), half(all[1], count)); }
}
"""
HALF = """#include <math.h>
long double half(long double x, int n) { return x / 2 + (n == 1) * sin(1.5) * exp(2.25f) - powf(1.7f, 2.3f); }
"""
ASSEMBLED = '#include <errno.h>\n.section .rodata\n.globl number\nnumber: .long EINVAL\n.ascii "text"\n'
COMPUTED = """export const precise: f128 = @sin(@as(f128, 1.5));
export const root: f64 = @sqrt(1.5) + @exp2(1.5);
"""
FILES = {"use.cc": USES, "half.c": HALF, "number.S": ASSEMBLED, "computed.zig": COMPUTED}
DOCKERFILE = """
FROM debian AS work
{more}
COPY . /src/
WORKDIR /src
RUN <<END
set -e
{script}
END
FROM scratch
COPY --from=work /src /src
"""


class Zig(NamedTuple):
    """A base image for an architecture and for this machine, with Zig in both."""

    architecture: str
    build: Builder
    base: str

    @property
    def cc(self) -> str:
        return f"zig cc -target {TRIPLES[self.architecture]}"

    def check_drivers(self, told: str) -> None:
        """All is native but `zig cc` itself where keys of its cache depend on the byte order."""
        lines = [line for line in notes(told).splitlines() if "/usr/local/zig/zig" in line]
        assert len(lines) == (self.architecture == "s390x"), told
        assert all("because an argument asks" in line and "," not in line for line in lines)

    def run(self, script: str, more: str = "", **request: object) -> tuple[BuiltImage, str]:
        """One RUN step in /src, which is all that is kept of it; and its log."""
        files = request.pop("files", FILES)
        image = self.build(
            DOCKERFILE.format(script=script, more=more),
            platform=f"linux/{self.architecture}",
            files=files,
            **request,
        )
        return image, log(image)


@pytest.fixture(scope="module", params=sorted(TRIPLES))
def zig(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, cache_directory: Path
) -> Zig:
    directory = tmp_path_factory.mktemp("zig")
    context = directory / "context"
    release_context(cache_directory, context, (request.param, "amd64"), suite="bookworm")
    for path in zig_context(cache_directory, ("amd64", *sorted(TRIPLES))).glob("*.tar"):
        os.link(path, context / path.name)
    builder = Builder(directory, context=str(context))
    layout = directory / "layout"
    base = f"{BASE}ADD zig-$TARGETARCH.tar /usr/local/\nENV PATH=/usr/local/zig:/usr/bin:/bin HOME=/root\n"
    output = Output("oci", str(layout), {"tar": "false"})
    builder(base, platform=("linux/amd64", f"linux/{request.param}"), outputs=(output,))
    build = Builder(
        directory / "build", build_contexts={"debian": f"oci-layout://{layout}"}, accelerate="cross"
    )
    return Zig(request.param, build, f"oci-layout://{layout}")


def test_lua_is_equal_and_made_by_the_native_zig(zig: Zig, cache_directory: Path) -> None:
    """With archives, links to the C library that Zig brings, and what it makes of that for each target."""
    archive = source_archive(cache_directory, "lua")
    script = f"""
tar xf {archive.name} --strip-components=1
make -C src linux CC="{zig.cc}" AR="zig ar rcD" RANLIB="zig ranlib"
./src/lua -e 'print(1/3, 2^53, math.sin(1))' > said
"""
    files = {archive.name: archive.read_bytes()}
    plain, _ = zig.run(script, files=files, accelerate="off")
    fast, told = zig.run(script, files=files)

    assert {"src/lua", "src/liblua.a", "src/lvm.o", "said"} <= set(equal_files(plain, fast))
    found = re.search("runs of native programs: ([0-9]+)", told)
    assert found is not None
    assert int(found[1]) > 100
    zig.check_drivers(told)


def test_objects_of_every_kind_are_equal(zig: Zig) -> None:
    """C, C++, assembly; optimised, with debug information, with checks, for link time."""
    arguments = {
        "plain": "",
        "debug": "-g -O0",
        "small": "-Os -fPIC -fvisibility=hidden",
        "fast": "-O3 -ffast-math -fno-sanitize=all",
        "later": "-O2 -flto",
        "text": "-O2 -S",
        "ir": "-O1 -S -emit-llvm",
    }
    script = "\n".join(
        f"{zig.cc} {options} -c half.c -o half.{name}; {zig.cc.replace('cc', 'c++', 1)} {options} "
        f"-c use.cc -o use.{name}"
        for name, options in arguments.items()
    )
    script += f"\n{zig.cc} -c number.S -o number.o; {zig.cc} -E half.c > half.i; {zig.cc} -MM half.c > half.d"
    plain, _ = zig.run(script, accelerate="off")
    fast, told = zig.run(script)

    assert len(equal_files(plain, fast)) > len(FILES) + 2 * len(arguments)
    zig.check_drivers(told)


def test_what_depends_on_the_machine_is_emulated_and_told(zig: Zig) -> None:
    """Source in Zig, whose values are computed as the compiler's machine does; no target or its processor;
    questions."""
    script = f"""
zig build-obj -target {TRIPLES[zig.architecture]} computed.zig -femit-bin=computed.o
zig version > version
{zig.cc} --version > c.version
zig cc -c half.c -o native.o
{zig.cc} -mcpu=native -c half.c -o native.cpu.o || echo $? > status
{zig.cc} -c computed.zig -o zig.o || echo $? > status.zig
cp -p /usr/local/zig/zig /src/copy && ./copy ar --version > copied; rm copy
"""
    plain, _ = zig.run(script, accelerate="off")
    fast, told = zig.run(script)

    equal_files(plain, fast)
    (line,) = [line for line in notes(told).splitlines() if "/usr/local/zig/zig was emulated" in line]
    assert "because an argument" in line
    assert "1 times because it was a copy in another place" in line


def test_a_cache_serves_both(zig: Zig) -> None:
    """What one has compiled the other finds."""
    script = (
        f"{zig.cc} -O2 -c half.c -o half.o; sha256sum half.o > sum; "
        "find /root/.cache/zig -name half.o | sed 's,.*/o/,,' | sort > cached; : {}"
    )
    dockerfile = DOCKERFILE.replace("RUN ", "RUN --mount=type=cache,target=/root/.cache ")
    images = [
        zig.build(
            dockerfile.format(script=script.format(number), more=""),
            platform=f"linux/{zig.architecture}",
            files=FILES,
            **mode,
        )
        for number, mode in enumerate(({}, {"accelerate": "off"}, {}))
    ]

    assert len({image.read_text("/src/sum") for image in images}) == 1
    assert len({image.read_text("/src/cached") for image in images}) == 1
    assert images[0].read_text("/src/cached").count("\n") == 1


def test_a_zig_that_came_by_a_step_is_emulated(zig: Zig) -> None:
    image, told = zig.run("zig ar --version > version", more="RUN touch /usr/local/zig/zig")

    assert "LLVM" in image.read_text("/src/version")
    assert "/usr/local/zig/zig is emulated: it is not the base image's, but came by a step" in told
