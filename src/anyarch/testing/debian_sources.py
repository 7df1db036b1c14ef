"""Real programs to build in emulated steps: sources of Debian's pool, how each is built, and how what was
built is tried.

Each script runs in the first directory of its archive; what it makes stays there.
"""

from __future__ import annotations

import hashlib
import urllib.request
from typing import TYPE_CHECKING, NamedTuple

from anyarch.testing.debian_archive import DebianError, machine_mirror

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["SOURCES", "WHEEL_PACKAGES", "Source", "dockerfile_of", "source_archive"]


class Source(NamedTuple):
    """A file below `pool/main` of a Debian archive, its digest, a script that builds, and one that runs what
    was built: that has no twin, so it is a step of its own."""

    path: str
    sha256: str
    script: str
    trial: str = ""


_JQ = r"""
sed -e 's/\\/\\\\/g' -e 's/"/\\"/g' -e 's/^/"/' -e 's/$/\\n"/' src/builtin.jq > src/builtin.inc
echo '#define JQ_VERSION "1.6"' > src/version.h
case $(uname -m) in s390x) order=IEEE_MC68k ;; *) order=IEEE_8087 ;; esac
D="-D_GNU_SOURCE -D$order=1 -DHAVE_MEMMEM -DHAVE_MKSTEMP -DHAVE_ISATTY -DHAVE_SETLOCALE -DHAVE_TIMEGM"
for f in src/*.c; do case $f in *inject_errors*) ;; *) F="$F ${f%.c}.o" ;; esac; done
printf 'jq: %s ; $(CC) -o $@ $^ -lm\n%%.o: %%.c ; $(CC) $(CFLAGS) -c $< -o $@\n' "$F" > Makefile.flat
make -f Makefile.flat -j2 CC=gcc CFLAGS="-std=gnu99 -O1 -g -I. -Isrc $D"
"""

_FMT = r"""
cat > use.cc <<'E'
#include <fmt/core.h>
int main() { fmt::print("{:>8.3f} {} {:#x}\n", 2.5, "text", 255); }
E
for f in src/format.cc src/os.cc use.cc; do g++ -O2 -g -fPIC -Iinclude -c $f -o $(basename $f .cc).o; done
ar rcD libfmt.a format.o os.o
g++ -shared -Wl,-soname,libfmt.so.9 format.o os.o -o libfmt.so.9 && ln -s libfmt.so.9 libfmt.so
g++ use.o libfmt.a -o use && g++ use.o -L. -lfmt -Wl,-rpath,. -o shared
"""

SOURCES = {
    "lua": Source(
        "l/lua5.4/lua5.4_5.4.4.orig.tar.gz",
        "164c7849653b80ae67bec4b7473b884bf5cc8d2dca05653475ec2ed27b9ebf61",
        "make -C src linux",
    ),
    "zlib": Source(
        "z/zlib/zlib_1.2.13.dfsg.orig.tar.bz2",
        "71feb7947e3c00ef125f83b79a4e529bde31171e5babe48b391f06758d1ab0a1",
        "./configure && make -j2 && rm configure.log",  # which tells the time
    ),
    "jq": Source(
        "j/jq/jq_1.6.orig.tar.gz",
        "3ba940b97571c866923f0409678033d33b5a98758dfc174fad8397ed908bc4d9",
        _JQ,
        """./jq -n '[1,{"a":"b"}]|tojson' > said""",
    ),
    "fmt": Source(
        "f/fmtlib/fmtlib_9.1.0+ds1.orig.tar.gz",
        "84ce1c2d0be3a9863935137969dcec6970125caac032f82474640bfc81463583",
        _FMT,
        "./use > said && ./shared >> said",
    ),
    "re2": Source(
        "r/re2/re2_20220601+dfsg.orig.tar.xz",
        "3bc61251da3b0b97be40a8a127818c517c62516e4eda11fc901d29496663df54",
        "make -j2 CXX=g++ obj/libre2.a obj/so/libre2.so",
    ),
    "gxz": Source(
        "g/golang-github-ulikunitz-xz/golang-github-ulikunitz-xz_0.5.6.orig.tar.gz",
        "e498361f9a2c243defb155e510bd2d1d8573bef938425b38213e2f2a8951959a",
        "HOME=/root CGO_ENABLED=0 go build -trimpath -o . ./cmd/gxz",
    ),
    "markupsafe": Source(
        "m/markupsafe/markupsafe_2.1.2.orig.tar.gz",
        "abcabc8c2b26036d62d4c746381a6f7cf60aafcc653198ad678306986b09450d",
        "python3 setup.py -q bdist_wheel && rm -r src/*.egg-info",
    ),
}
WHEEL_PACKAGES = ("python3-dev", "python3-setuptools", "python3-wheel")
"""What the last one needs in its root."""


def source_archive(cache: Path, name: str) -> Path:
    """The archive of one of `SOURCES`, kept in the cache. Raises `DebianError`."""
    source = SOURCES[name]
    path = cache / "sources" / source.path.rpartition("/")[2]
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with urllib.request.urlopen(f"{machine_mirror()}/pool/main/{source.path}") as answer:
            raw = answer.read()
        if hashlib.sha256(raw).hexdigest() != source.sha256:
            raise DebianError(f"{path.name} is not the file that was expected")
        path.write_bytes(raw)
    return path


def dockerfile_of(name: str) -> str:
    """Builds one of `SOURCES` above the image `debian`, in /src, and tries it; the archive is in the context.
    The shell tells the processor's time that building took."""
    source = SOURCES[name]
    archive = source.path.rpartition("/")[2]
    trial = f"RUN cd /src/*/ && {source.trial}\n" if source.trial else ""
    return (
        f"FROM debian AS work\nENV SOURCE_DATE_EPOCH=0 PYTHONDONTWRITEBYTECODE=1\nADD {archive} /src/\n"
        f"ARG ROUND\nRUN <<END\nset -e\ncd /src/*/\n"
        f"({source.script}) >/dev/null\ntimes\nEND\n"
        f"{trial}FROM scratch\nCOPY --from=work /src /src\n"
    )
