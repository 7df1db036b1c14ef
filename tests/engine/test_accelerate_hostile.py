"""Whatever a build does to its compiler and tools, native twins make the files that emulated programs make.

All cases run in one emulated and one accelerated step; each has a directory, in which its output and status
are kept too.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from anyarch.testing.builder import Builder
from anyarch.testing.debian_roots import cross_packages
from tests.engine.test_accelerate import ARM, log, notes
from tests.engine.test_accelerate_cross import SOURCES, base_image

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from anyarch.testing.builder import BuiltImage

# both ways together take minutes where the machine is busy
pytestmark = [pytest.mark.root, pytest.mark.emulation, pytest.mark.slow, pytest.mark.timeout(1800)]

RUNNER = r"""
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
/* runner NAME PROGRAM ARGUMENT...: PROGRAM called NAME, with descriptor 9 closed on exec and 8 not */
int main(int argc, char **argv) {
    char *path = argv[2];
    argv[2] = argv[1];
    fcntl(9, F_SETFD, FD_CLOEXEC);
    execv(path, argv + 2);
    printf("%s: %s\n", path, strerror(errno));
    return 126;
}
"""
PROBE = r"""
#include <stdio.h>
int main(void) {
    union { unsigned n; unsigned char c[4]; } u = {1};
    printf("%zu %zu %zu %d %d\n", sizeof(long), sizeof(long double), sizeof(void *), u.c[0], (char)-1 < 0);
}
"""
SHOW = r"""
#include <stdio.h>
int main(int argc, char **argv) {
    for (int i = 0; i < argc; i++) printf("%d %s\n", i, argv[i]);
    return 3;
}
"""
PRELOADED = r"""
#include <unistd.h>
__attribute__((constructor)) static void begin(void) { write(1, "loaded\n", 7); }
"""
FILES = {**SOURCES, "runner.c": RUNNER, "probe.c": PROBE, "preloaded.c": PRELOADED, "show.c": SHOW}

CASES = {
    # how the compiler is named
    "relative": """
cd /usr/bin; ./gcc -c $S/c.c -o $D/a.o; ../bin/gcc -c $S/c.c -o $D/b.o; gcc-12 -c $S/c.c -o $D/c.o
""",
    "links": """
ln -s /usr/bin/gcc my-cc; ln -s my-cc cc2; ./cc2 -c $S/c.c; ln -s gcc-12 /usr/bin/arm-cc
arm-cc -c $S/c.c -o 2.o
""",
    "alternatives": """
mkdir -p /etc/alternatives /var/lib/dpkg/alternatives
update-alternatives --install /usr/bin/thecc thecc /usr/bin/gcc 20 --slave /usr/bin/thecxx thecxx /usr/bin/g++
update-alternatives --display thecc; thecc -c $S/c.c; thecxx -c $S/cc.cc
""",
    "wrapper-in-path": r"""
mkdir bin
printf '#!/bin/sh\necho "wrapped $*" >> %s/calls\nexec /usr/bin/gcc -DEXTRA "$@"\n' $D > bin/gcc
chmod 755 bin/gcc
PATH=$D/bin:$PATH gcc -c $S/c.c; cd bin; PATH=.:$PATH gcc -c $S/c.c -o ../2.o
PATH= /usr/bin/gcc -c $S/c.c -o ../3.o
""",
    "copied-compiler": """
cp -p /usr/bin/gcc-12 mine; ./mine -c $S/c.c -o 1.o; cp /usr/bin/gcc-12 other
./other -c $S/c.c -o 2.o; rm mine other
""",
    "argv0": """
gcc $S/runner.c -o runner; ./runner weird /bin/ls /nowhere; ./runner '' /bin/echo x
./runner -x /usr/bin/expr 1 + 2; ./runner foo/bar /bin/cat /nowhere; ./runner g++ /usr/bin/gcc -c $S/c.c
""",
    "descriptors": """
gcc $S/runner.c -o runner
./runner sh /bin/sh -c 'echo open >&8; (echo closed >&9) 2>/dev/null || echo 9 is closed' 8>eight 9>nine
sh -c 'cat <&7; echo more >&7' 7<>$D/seven; exec 5>five
ls -l /proc/self/fd/5 >/dev/null && echo 5 is there
""",
    "ccache": """
export CCACHE_DIR=$D/cache; ccache gcc -c $S/c.c; mv c.o 1.o; ccache gcc -c $S/c.c
ccache -s | grep -c Hits; rm -r cache
""",
    # what configure scripts do
    "probes": """
uname -m; uname -s; arch; gcc -dumpmachine; gcc -dumpversion; gcc -dumpspecs > specs; getconf LONG_BIT
dpkg --print-architecture
gcc $S/probe.c -o probe && ./probe; echo 'int main(){return missing();}' | gcc -xc - -o no; echo $?
echo '#include <nothere.h>' | gcc -E -xc -; echo 'main(){}' | gcc -Werror -xc - -o no
gcc -print-search-dirs; gcc -print-libgcc-file-name
gcc -print-multi-lib; gcc -print-prog-name=ld; gcc -print-file-name=libc.so; gcc --version
ld --version; as --version; make --version
gcc -Wl,--version 2>&1 | head -1; gcc -E -dM -xc /dev/null | sort > macros
gcc -Q --help=target > target; cpp --version | head -1
""",
    "assembler": r"""
gcc -S $S/c.c; as c.s -o c.o; gcc -c -g c.s -o g.o; printf '.data\n.incbin "%s/c.c"\n' $S | as -o i.o
echo bad bad | as -o no.o
nm c.o; objdump -dr c.o; readelf -aW c.o; size c.o; strip -g g.o -o s.o
objcopy -O binary -j .text c.o text; ar rcD l.a c.o i.o; ar t l.a
ld -r c.o i.o -o r.o; ranlib -D l.a; nm l.a; ld c.o -o no; ar x l.a i.o
objcopy --only-keep-debug g.o dbg; c++filt _Z1fv; strings c.o | sort
""",
    "preprocessor": """
gcc -E $S/c.c > e; gcc -M $S/c.c > m; gcc -MMD -MP -MF d -c $S/c.c; gcc -E -v $S/c.c 2>v >/dev/null
grep -A9 'search starts' v; rm v
""",
    # options
    "levels": """
for o in -O0 -O1 -O2 -O3 -Os -Ofast -Og; do gcc $o -g3 -c $S/c.c -o c$o.o
g++ $o -c $S/cc.cc -o cc$o.o; done
""",
    "features": """
gcc -fopenmp -O2 -c $S/c.c -o omp.o; gcc -fsanitize=address,undefined -c $S/c.c -o san.o
gcc -fPIC -fvisibility=hidden -c $S/c.c -o pic.o
gcc -O2 -D_FORTIFY_SOURCE=2 -fstack-protector-strong -fstack-clash-protection -c $S/c.c -o hard.o
g++ -std=c++20 -fno-exceptions -c $S/cc.cc
gcc -static $S/c.c -o static && ./static
gcc -ffunction-sections -Wl,--gc-sections,-z,now,-z,relro $S/c.c -o gc; gcc -pipe $S/c.c -o pipe
""",
    "native-cpu": """
gcc -march=native -c $S/c.c -o a.o; gcc -mcpu=native -O2 -c $S/c.c -o b.o
gcc -mtune=native -c $S/c.c -o c.o
""",
    "lto": """
gcc -flto -O2 -frandom-seed=1 -c $S/c.c; gcc -flto -O2 c.o -o p && ./p
gcc -fplugin=./no.so -c $S/c.c -o n.o; gcc-ar --version | head -1; rm c.o
""",
    "lto-archives": """
gcc -flto -O2 -frandom-seed=1 -c $S/c.c; ar rc l.a c.o; nm -s l.a; nm c.o; gcc -c $S/cc.cc; ar q l.a cc.o
ranlib l.a; nm -s l.a; rm c.o l.a
""",
    "response-files": """
echo -O1 -DX > r; gcc @r -c $S/c.c; echo rcD l.a c.o > a; ar @a; echo -r c.o -o r.o > l; ld @l
gcc -c @none $S/c.c -o n.o
""",
    "specs": r"""
printf '*cc1:\n+ -DSPECS -O3\n' > sp; gcc -specs=sp -c $S/c.c; gcc --sysroot=/ -c $S/c.c -o s.o
gcc --sysroot=/nowhere -c $S/c.c -o n.o; gcc -B$D -c $S/c.c -o b.o
""",
    "precompiled-header": """
cp $S/local.h p.h; gcc -x c-header p.h -o p.h.gch; echo 'int x = LOCAL;' > u.c
gcc -Winvalid-pch -include p.h -c u.c -o 1.o; gcc -include p.h -c u.c -o 2.o
rm p.h; gcc -Winvalid-pch -include p.h -c u.c -o 3.o; ls -l p.h.gch | grep -c p.h; rm p.h.gch
""",
    "coverage": """
gcc --coverage -frandom-seed=1 $S/c.c -o p && ./p
gcc -ftest-coverage -frandom-seed=1 -c $S/c.c -o t.o; gcov --version | head -1; gcov -t p-c.gcda
""",
    "split-dwarf": """
gcc -g -gsplit-dwarf -c $S/c.c; gcc -g -gdwarf-4 -c $S/c.c -o 4.o; gcc -g -gz -c $S/c.c -o z.o
gcc -g -ffile-prefix-map=$S=/x -c $S/c.c -o m.o
""",
    "diagnostics": r"""
printf 'int f(int a) { int b; if (a = 1) return b }\n' > w.c
gcc -Wall -fdiagnostics-color=always -c w.c; gcc -Wall -c w.c; LC_ALL=C gcc -c w.c
GCC_COLORS=error=01 gcc -fdiagnostics-color -c w.c; gcc -fdiagnostics-format=json -c w.c
g++ -fmax-errors=1 -c w.c; gcc -Wall -Wextra -fanalyzer -c $S/c.c
""",
    "environment": """
mkdir inc; echo '#define LOCAL 7' > inc/local.h; C_INCLUDE_PATH=$D/inc gcc -c $S/c.c -o 1.o
CPATH=$D/inc gcc -c $S/c.c -o 2.o
env -i /usr/bin/gcc -c $S/c.c -o 3.o; TMPDIR=$D gcc -c $S/c.c -o 4.o
DEPENDENCIES_OUTPUT=$D/deps gcc -c $S/c.c -o 5.o
LIBRARY_PATH=$D gcc $S/c.c -o 6; GCC_EXEC_PREFIX=/usr/lib/gcc/ gcc -c $S/c.c -o 7.o
COMPILER_PATH=/usr/bin gcc -c $S/c.c -o 8.o
""",
    "long-command-line": """
i=0; while [ $i -lt 3000 ]; do set -- "$@" -DNAME_$i=some_value_$i; i=$((i+1)); done
gcc "$@" -E -dM -xc /dev/null | sort | sha256sum; gcc "$@" -c $S/c.c
""",
    "no-space": """
gcc -c $S/c.c -o /dev/full; gcc -c $S/c.c -o /nowhere/x.o; gcc -c nothere.c; gcc; gcc -o x; echo $?
""",
    "parallel": """
i=0; while [ $i -lt 12 ]; do echo "int f$i(int x) { return x * $i; }" > f$i.c; i=$((i+1)); done
echo 'all: $(patsubst %.c,%.o,$(wildcard *.c))' > Makefile; make -s -j8 CC=gcc
""",
    # programs and processes
    "interpreters": r"""
gcc $S/show.c -o interp; printf '#!%s/interp word\n' $D > s1
printf '#!/usr/bin/make -f\nall: ; @echo made\n' > s2
printf '#!/bin/sed -nf\n/x/p\n' > s3
printf '#!/usr/bin/env -S sh -e\necho env; false; echo no\n' > s4; printf '#!%s/s4\n' $D > s5
chmod 755 s?
./s1 a b; ./s2; echo yxz | ./s3; ./s4; echo $?; ./s5; printf 'echo plain\n' > s6; chmod 755 s6; ./s6
printf '#!/nowhere\n' > s7; chmod 755 s7; ./s7; echo $?
""",
    "preload": """
gcc -shared -fPIC $S/preloaded.c -o p.so; LD_PRELOAD=$D/p.so /bin/true; LD_PRELOAD=$D/p.so gcc -c $S/c.c
mkdir lib; cp p.so lib/libacl.so.1; LD_LIBRARY_PATH=$D/lib /bin/true; LD_LIBRARY_PATH=$D/lib ls -d .
LD_TRACE_LOADED_OBJECTS=1 /bin/true | cut -d'(' -f1
""",
    "setuid": """
cp -p /bin/cat cat; chmod 6755 cat; echo setuid | ./cat; cp -p /usr/bin/gcc-12 g; chmod u+s g
./g -c $S/c.c; rm cat g
""",
    "signals": """
sh -c 'exit 37'; echo $?; sh -c 'kill -9 $$'; echo $?; timeout -s TERM 0.3 sleep 9; echo $?
(trap '' TERM; sh -c 'kill -TERM $$; echo alive')
yes 2>/dev/null | head -n 1; sh -c 'trap "echo caught" USR1; kill -USR1 $$; echo on'; false; echo $?
/nowhere/x; echo $?; /etc/passwd; echo $?
sh -c 'kill -SEGV $$'; echo $?; nice -n 3 nice; (ulimit -n 64; sh -c 'ulimit -n'); umask 027; touch t
stat -c %a t
""",
    "gone-directory": """
mkdir d; cd d; rmdir ../d; /bin/pwd; cat $S/local.h; gcc -c $S/c.c -o $D/o.o; cd ..; ls
""",
    "replaced-at-once": r"""
cp -p /usr/bin/sed saved; printf '#!/bin/sh\necho other sed\n' > new; chmod 755 new
mv new /usr/bin/sed; sed --version; echo x | sed s/x/y/
mv saved /usr/bin/sed; echo x | sed s/x/y/; mv /usr/bin/cmp /usr/bin/cmp2; cmp2 $S/c.c $S/cc.cc
mv /usr/bin/cmp2 /usr/bin/cmp
""",
}


def step_of(case: str, script: str) -> str:
    """Its lines, in a directory of its own, with what is printed kept there."""
    script = script.strip()
    return (
        f"export S=/src D=/src/out/{case}; mkdir -p $D; (cd $D\n{script}\n) > $D/said 2>&1 < /dev/null\n"
        "echo $? > $D/status"
    )


def dockerfile_of(cases: Mapping[str, str]) -> str:
    """All of them in one step."""
    return DOCKERFILE.replace("SCRIPT", "\n".join(step_of(*case) for case in cases.items()))


DOCKERFILE = """
FROM debian AS work
ENV SOURCE_DATE_EPOCH=0
COPY local.h /usr/local/include/
COPY . /src/
RUN <<'END'
SCRIPT
END
FROM scratch
COPY --from=work /src /src
"""


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory, cache_directory: Path) -> Builder:
    return hostile_builder(tmp_path_factory, cache_directory)


def hostile_builder(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Builder:
    """Accelerated builds above an image with compilers."""
    base = base_image(
        cache, tmp_path_factory.mktemp("debian"), "bookworm", "arm64", ARM, packages=("ccache",)
    )
    packages = cross_packages(cache, "arm64", suite="bookworm")
    return Builder(
        tmp_path_factory.mktemp("hostile"),
        build_contexts={"debian": base},
        accelerate=f"cross,packages={packages}",
    )


def fixture_of(cases: Mapping[str, str], files: Mapping[str, str]) -> Any:
    """A fixture of a module: the step that does all of `cases`, emulated and accelerated."""

    @pytest.fixture(scope="module")
    def both(
        tmp_path_factory: pytest.TempPathFactory, cache_directory: Path
    ) -> tuple[BuiltImage, BuiltImage]:
        return both_ways(hostile_builder(tmp_path_factory, cache_directory), cases, files)

    return both


def both_ways(
    build: Builder, cases: Mapping[str, str], files: Mapping[str, str]
) -> tuple[BuiltImage, BuiltImage]:
    """The step that does all of `cases`, emulated and accelerated."""
    fast = build(dockerfile_of(cases), platform=ARM, files=files)
    plain = build(dockerfile_of(cases), platform=ARM, files=files, accelerate="off")
    return plain, fast


def check_alike(both: tuple[BuiltImage, BuiltImage], case: str, *, hidden: str = "") -> None:
    """Files, output and status are the same, but for the text `hidden` in the output of native programs."""
    plain, fast = (contents(image.path(f"/src/out/{case}")) for image in both)

    assert said(fast).replace(hidden, "") == said(plain)
    assert sorted(fast) == sorted(plain)
    assert [name for name in plain if fast[name] != plain[name]] == []


@pytest.fixture(scope="module")
def both(build: Builder) -> tuple[BuiltImage, BuiltImage]:
    """The same step emulated and accelerated."""
    return both_ways(build, CASES, FILES)


@pytest.mark.parametrize("case", CASES)
def test_files_output_and_status_are_those_of_emulated_programs(
    both: tuple[BuiltImage, BuiltImage], case: str
) -> None:
    check_alike(both, case)


def said(files: dict[str, bytes]) -> str:
    """Without random names, and what QEMU itself says."""
    text = re.sub(r"/tmp/cc[A-Za-z0-9]{6}\b", "/tmp/cc", files.pop("said").decode("utf-8", "replace"))
    text = re.sub(r"\bst[A-Za-z0-9]{6}\b", "st", text)  # of ar, strip and objcopy
    return re.sub(r"qemu: uncaught target signal .*\n", "", text)


def contents(top: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(top)): path.read_bytes() if path.is_file() else b""
        for path in top.rglob("*")
        if path.exists()
    }


def test_most_of_them_ran_natively(both: tuple[BuiltImage, BuiltImage]) -> None:
    (step,) = both[1].result.metadata["anyarch.acceleration"]["steps"].values()

    assert step["native"] > 400
    assert "files of the result are for" not in notes(log(both[1]))
