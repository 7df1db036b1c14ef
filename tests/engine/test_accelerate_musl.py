"""Native twins of programs that are linked with musl, whose loader is the C library and takes its directories
from the root.

Debian has musl, but no programs for it. So a tool and a library of the test's own, which apk's database calls
`gzip` and `zlib`, are compiled with it and laid out as Alpine does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from anyarch.engine.request import Output
from anyarch.testing.apk_roots import apk_root
from anyarch.testing.builder import Builder
from anyarch.testing.debian_roots import cross_packages
from tests.engine.test_accelerate import ARM, BASE, BOTH, log, notes
from tests.engine.test_accelerate_cross import base_image

if TYPE_CHECKING:
    from pathlib import Path

    from anyarch.testing.builder import BuiltImage

# the compilers that its programs are made by
pytestmark = [pytest.mark.root, pytest.mark.emulation, pytest.mark.slow, pytest.mark.timeout(1800)]

PART = """
#include <locale.h>
#include <stdio.h>
char const *part(void) { return PART; }
void tell(char const *what, char const *value) { printf("%s: %s\\n", what, value ? value : "none"); }
"""
TOOL = """
#include <errno.h>
#include <fcntl.h>
#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
char const *part(void);
void tell(char const *, char const *);
/* gzip OUTPUT [PROGRAM ARGUMENT...]: what it sees goes to the file OUTPUT, then PROGRAM is run */
int main(int argc, char **argv) {
    if (argc < 2 || dup2(open(argv[1], O_CREAT | O_WRONLY | O_APPEND, 0644), 1) < 0) return 2;
    for (int i = 0; i < argc; i++) tell("argument", argv[i]);
    tell("library", part());
    tell("locale", setlocale(LC_ALL, ""));
    tell("variable", getenv("TOLD"));
    tell("message", strerror(ENOENT));
    fflush(stdout);
    if (argc == 2) return 0;
    int status = 0;
    if (!fork()) {
        execvp(argv[2], argv + 2);
        _exit(127);
    }
    wait(&status);
    printf("status: %d\\n", WEXITSTATUS(status));
    return 0;
}
"""
FILES = {"tool.c": TOOL, "part.c": PART}
# libc.so has no name of its own: programs need what it was called when they were linked
MAKE = r"""
FROM debian AS work
COPY *.c /src/
RUN <<'END'
set -e
m=$(uname -m); mkdir -p /out/lib /out/usr/lib /out/bin /out/decoy; cd /usr/lib/$m-linux-musl
cp libc.so /out/lib/ld-musl-$m.so.1; ln -s ld-musl-$m.so.1 /out/lib/libc.musl-$m.so.1
mv libc.so libc.musl-$m.so.1; echo "INPUT(-l:libc.musl-$m.so.1)" > libc.so; cd /src
musl-gcc -s -O1 -shared -fPIC -DPART='"own"' -Wl,-soname,libz.so.1 part.c -o /out/usr/lib/libz.so.1
musl-gcc -s -O1 -shared -fPIC -DPART='"decoy"' -Wl,-soname,libz.so.1 part.c -o /out/decoy/libz.so.1
musl-gcc -s -O1 tool.c /out/usr/lib/libz.so.1 -o /out/bin/gzip
END
FROM scratch
COPY --from=work /out /
"""
MACHINES = {"linux/amd64": ("amd64", "x86_64"), ARM: ("arm64", "aarch64")}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, cache_directory: Path) -> Builder:
    """Builds above a root in which all is linked with musl, for this machine and another."""
    top = tmp_path_factory.mktemp("musl")
    packages = ("musl-dev", "musl-tools")
    debian = base_image(cache_directory, top / "debian", "bookworm", "arm64", ARM, packages=packages)
    compilers = cross_packages(cache_directory, "arm64", suite="bookworm")
    make = Builder(top / "make", build_contexts={"debian": debian}, accelerate=f"cross,packages={compilers}")
    made = make(MAKE, platform=BOTH, files=FILES)
    roots = Builder(top / "roots")
    for platform, (target, machine) in MACHINES.items():
        names = {
            "musl": (f"lib/ld-musl-{machine}.so.1", f"lib/libc.musl-{machine}.so.1"),
            "zlib": ("usr/lib/libz.so.1",),
            "gzip": ("bin/gzip",),
        }
        paths = [path for each in names.values() for path in each]
        files = {path: made.path(path, platform) for path in (*paths, "decoy/libz.so.1")}
        roots.write({f"rootfs-{target}.tar": apk_root(names, files, machine)})
    layout = top / "layout"
    roots(BASE, platform=BOTH, outputs=(Output("oci", str(layout), {"tar": "false"}),))
    return Builder(
        top / "build", build_contexts={"alpine": f"oci-layout://{layout}"}, accelerate="tools", no_cache=True
    )


def run(build: Builder, *lines: str, **request: object) -> tuple[BuiltImage, str]:
    image = build("FROM alpine\n" + "\n".join(lines) + "\n", platform=ARM, **request)
    return image, log(image)


def test_a_program_of_musl_finds_its_own_libraries_and_tells_what_the_emulated_one_does(
    shared: Builder,
) -> None:
    lines = (
        "ENV TOLD=x LANG=de_DE.UTF-8",
        'RUN ["/bin/gzip", "/told", "a b", ""]',
        'RUN ["/bin/gzip", "/told", "gzip", "/told", "/bin/gzip", "/told"]',
    )
    plain, _ = run(shared, *lines, accelerate="off")
    fast, told = run(shared, *lines)

    text = plain.read_text("/told")
    assert text.count("library: own\n") == 4
    assert "variable: x\n" in text
    assert "status: 127\n" in text  # of `a b`, which is no program
    assert fast.read_text("/told") == text
    assert [line.split("; ")[0] for line in notes(told).splitlines() if "runs of" in line] == [
        "accelerate: runs of native programs: 1",
        "accelerate: runs of native programs: 3",
    ]


def test_what_a_root_says_of_directories_is_for_its_own_programs(shared: Builder) -> None:
    """By files of settings: of the emulated architecture, and of this machine's, which no program of the root
    reads."""
    files = {"x86_64": "/decoy\n", "aarch64": "/usr/lib:/decoy\n"}
    copies = [f"COPY ld-musl-{machine}.path /etc/" for machine in files]
    shared.write({f"ld-musl-{machine}.path": text for machine, text in files.items()})
    image, told = run(shared, *copies, 'RUN ["/bin/gzip", "/told"]')

    assert "library: own\n" in image.read_text("/told")
    assert "runs of native programs: 1; " in notes(told)


def test_another_library_is_for_the_emulated_program(shared: Builder) -> None:
    image, told = run(shared, "ENV LD_LIBRARY_PATH=/decoy", 'RUN ["/bin/gzip", "/told"]')

    assert "library: decoy\n" in image.read_text("/told")
    assert "/bin/gzip was emulated 1 times because a variable such as" in notes(told)


def test_a_replaced_library_leaves_its_programs_to_the_emulator(shared: Builder) -> None:
    image, told = run(shared, "COPY --from=alpine /decoy/libz.so.1 /usr/lib/", 'RUN ["/bin/gzip", "/told"]')

    assert "library: decoy\n" in image.read_text("/told")
    reason = "it needs libz.so.1, and /usr/lib/libz.so.1 is not as its package brought it"
    assert f"accelerate: /bin/gzip is emulated: {reason}" in notes(told)
