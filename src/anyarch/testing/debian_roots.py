"""Small Debian roots for any architecture, unpacked from packages: no program of theirs runs to make them.

`root_context` gives a directory with `rootfs-$TARGETARCH.tar` for each architecture asked for, from the same
packages, with the database that dpkg would have of them. What maintainer scripts do is missing (users, the
linker's cache); shells, everyday tools and compilers work.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from unittest.mock import patch

import msgspec

from anyarch.testing.debian_archive import DebianArchive, run_tool
from anyarch.testing.debian_images import ARCHITECTURES, cached

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from anyarch.emulation.accelerate.archive import Archive

__all__ = [
    "BUILD_PACKAGES",
    "COMPILER_PACKAGES",
    "TOOL_PACKAGES",
    "kept_packages",
    "release_context",
    "root_context",
]

TOOL_PACKAGES = (
    *("base-files", "coreutils", "dash", "dpkg", "findutils", "gcc-12-base", "grep", "gzip", "libacl1"),
    *("libattr1", "libbz2-1.0", "libc6", "libc-bin", "libcrypt1", "libgcc-s1", "libgmp10", "liblzma5"),
    *("libmd0", "libpcre2-8-0", "libselinux1", "libssl3", "libzstd1", "make", "sed", "tar", "zlib1g"),
)
"""Enough for shell scripts with coreutils, tar, make and dpkg-deb; names of Debian 12."""

COMPILER_PACKAGES = (
    *("binutils", "binutils-common", "cpp", "cpp-12", "g++", "g++-12", "gcc", "gcc-12"),
    *("libasan8", "libatomic1", "libbinutils", "libc-dev-bin", "libc6-dev", "libcrypt-dev", "libctf0"),
    *("libctf-nobfd0", "libgcc-12-dev", "libgomp1", "libisl23", "libjansson4", "libmpc3", "libmpfr6"),
    *("libstdc++-12-dev", "libstdc++6", "libubsan1", "linux-libc-dev"),
)
"""What a C or C++ compiler needs beside `TOOL_PACKAGES`."""

BUILD_PACKAGES = (
    *("base-files", "bzip2", "coreutils", "dash", "debianutils", "diffutils", "dpkg", "findutils", "g++"),
    *("gcc", "grep", "gzip", "libc-bin", "libc6-dev", "make", "mawk", "patch", "sed", "tar", "xz-utils"),
)
"""What builds C and C++, of any release, by the names that have to be asked for."""

_TRIPLETS = {
    "amd64": "x86-64-linux-gnu",
    "arm64": "aarch64-linux-gnu",
    "armhf": "arm-linux-gnueabihf",
    "s390x": "s390x-linux-gnu",
    "ppc64el": "powerpc64le-linux-gnu",
}
_LINKS = ("bin", "lib", "lib64", "sbin")
_DOCUMENTATION = tuple(f"usr/share/{name}/" for name in ("doc", "man", "info", "locale", "lintian", "gdb"))
_FILES = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n",
    "etc/group": "root:x:0:\nnogroup:x:65534:\n",
}


def release_context(
    cache: Path, name: str, architecture: str, packages: Sequence[str], *, suite: str
) -> Path:
    """A build context with the root of one architecture of a release, kept in `cache` under
    `NAME-SUITE-ARCHITECTURE`: packages with all that they depend on, without documentation. Raises
    `DebianError`."""

    def make(directory: Path) -> None:
        (each,) = (each for each in ARCHITECTURES if each.debian == architecture)
        archive = DebianArchive(
            cache / "debian" / f"apt-{suite}-{architecture}",
            {suite: [architecture]},
            architecture=architecture,
        )
        with tempfile.TemporaryDirectory(dir=cache / "debian") as packed:
            files = archive.download_with_dependencies(packages, Path(packed))
            (directory / f"rootfs-{each.target}.tar").write_bytes(_root(files, documented=False))

    return cached(cache, f"root-{name}-{suite}-{architecture}", make)


def root_context(cache: Path, name: str, architectures: Sequence[str], packages: Sequence[str]) -> Path:
    """A build context with the roots, kept in `cache` under `name`. Raises `DebianError`."""

    def make(directory: Path) -> None:
        wanted = [each for each in ARCHITECTURES if each.debian in architectures]
        archive = DebianArchive(
            cache / "debian" / f"apt-{name}", {"bookworm": [each.debian for each in wanted]}
        )
        names = {
            each.debian: [
                *packages,
                *([f"binutils-{_TRIPLETS[each.debian]}"] if "binutils" in packages else []),
            ]
            for each in wanted
        }
        specs = [f"{package}:{arch}" for arch, each in names.items() for package in each]
        files = archive.download(specs, cache / "debian" / "packages")
        by_spec = dict(zip(specs, files, strict=True))
        for each in wanted:
            chosen = [by_spec[f"{package}:{each.debian}"] for package in names[each.debian]]
            (directory / f"rootfs-{each.target}.tar").write_bytes(_root(chosen))

    return cached(cache, f"root-{name}", make)


@contextmanager
def kept_packages(cache: Path) -> Iterator[None]:
    """Within it, what acceleration fetches of a distribution's archive for the twins of compilers is kept in
    `cache`, beside the roots whose versions it has to match, and fetched the first time only."""
    from anyarch.emulation.accelerate import archive as module

    really = module.fetch

    def fetch(
        directory: Path, archive: Archive, *, host: str, packages: Sequence[str], optional: Sequence[str]
    ) -> dict[str, list[module.KeptFile]]:
        def make(kept: Path) -> None:
            files = really(directory, archive, host=host, packages=packages, optional=optional)
            (kept / "files").write_bytes(msgspec.msgpack.encode(files))

        asked = msgspec.json.encode([archive.repositories, host, packages, optional])
        kept = cached(cache, f"twins-{hashlib.sha256(asked).hexdigest()[:12]}", make)
        return msgspec.msgpack.decode((kept / "files").read_bytes(), type=dict[str, list[module.KeptFile]])

    with patch.object(module, "fetch", fetch):
        yield


def _root(packages: Sequence[Path], *, documented: bool = True) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as root:
        seen: set[str] = set()
        for link in _LINKS:
            _add(root, seen, f"usr/{link}", kind=tarfile.DIRTYPE)
            _add(root, seen, link, kind=tarfile.SYMTYPE, link=f"usr/{link}")
        for path, text in _FILES.items():
            _add_file(root, seen, path, text.encode())
        _add(root, seen, "tmp", kind=tarfile.DIRTYPE, mode=0o1777)
        for directory in ("dev", "proc", "sys", "root"):
            _add(root, seen, directory, kind=tarfile.DIRTYPE)
        status = [_unpack(package, root, seen, documented=documented) for package in packages]
        _add_file(root, seen, "var/lib/dpkg/status", "\n".join(status).encode())
    return buffer.getvalue()


def _unpack(package: Path, root: tarfile.TarFile, seen: set[str], *, documented: bool) -> str:
    """Add a package's files and what dpkg would know of it; the paragraph of its status. Documentation is
    what dpkg can be told to leave out."""
    fields = run_tool(["dpkg-deb", "--field", str(package)])
    names = ("Package", "Architecture", "Multi-Arch")
    name, architecture, multi = (
        run_tool(["dpkg-deb", "--field", str(package), each]).strip() for each in names
    )
    listed, sums = ["/."], []
    raw = _tar_of(package)
    with tarfile.open(fileobj=io.BytesIO(raw)) as files:
        for member in files:
            path = member.name.removeprefix("./").rstrip("/")
            if path in ("", "."):
                continue
            listed.append(f"/{path}")
            if not documented and path.startswith(_DOCUMENTATION):
                continue
            member.name = _merged(path)
            if member.islnk():
                member.linkname = _merged(member.linkname.removeprefix("./"))
            content = files.extractfile(member) if member.isfile() else None
            data = content.read() if content is not None else b""
            if member.isfile():
                sums.append(f"{hashlib.md5(data, usedforsecurity=False).hexdigest()}  {path}")
            if member.name not in seen:
                _parents(root, seen, member.name)
                seen.add(member.name)
                root.addfile(member, io.BytesIO(data) if member.isfile() else None)
    stem = f"{name}:{architecture}" if multi == "same" else name
    _add_file(root, seen, f"var/lib/dpkg/info/{stem}.list", "".join(f"{one}\n" for one in listed).encode())
    _add_file(root, seen, f"var/lib/dpkg/info/{stem}.md5sums", "".join(f"{one}\n" for one in sums).encode())
    return f"Status: install ok installed\n{fields.rstrip()}\n"


def _tar_of(package: Path) -> bytes:
    import subprocess

    return subprocess.run(
        ["dpkg-deb", "--fsys-tarfile", str(package)], capture_output=True, check=True
    ).stdout


def _merged(path: str) -> str:
    """As on a system whose /bin, /lib and /sbin are links into /usr."""
    first = path.split("/", 1)[0]
    return f"usr/{path}" if first in _LINKS else path


def _parents(root: tarfile.TarFile, seen: set[str], path: str) -> None:
    parts = path.split("/")
    for depth in range(1, len(parts)):
        _add(root, seen, "/".join(parts[:depth]), kind=tarfile.DIRTYPE)


def _add(
    root: tarfile.TarFile, seen: set[str], path: str, *, kind: bytes, link: str = "", mode: int = 0o755
) -> None:
    if path in seen:
        return
    _parents(root, seen, path)
    seen.add(path)
    info = tarfile.TarInfo(path)
    info.type, info.linkname, info.mode = kind, link, mode
    root.addfile(info)


def _add_file(root: tarfile.TarFile, seen: set[str], path: str, data: bytes) -> None:
    _parents(root, seen, path)
    seen.add(path)
    info = tarfile.TarInfo(path)
    info.size, info.mode = len(data), 0o644
    root.addfile(info, io.BytesIO(data))
