"""Small Debian roots for any architecture, unpacked from packages: no program of theirs runs to make them.

`root_context` gives a directory with `rootfs-$TARGETARCH.tar` for each architecture asked for, from the same
packages, with the database that dpkg would have of them. What maintainer scripts do is missing (users, the
linker's cache); shells, everyday tools and compilers work.
"""

from __future__ import annotations

import copy
import hashlib
import io
import os
import tarfile
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from anyarch.testing.debian_archive import KEYRING, DebianArchive, machine_mirror, run_tool
from anyarch.testing.debian_images import ARCHITECTURES, cached, native

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anyarch.testing.debian_images import Architecture

__all__ = [
    "BUILD_PACKAGES",
    "INSTALL_PACKAGES",
    "TOOL_PACKAGES",
    "cross_packages",
    "package_repository",
    "release_context",
    "root_context",
]

TOOL_PACKAGES = (
    *("base-files", "coreutils", "dash", "dpkg", "findutils", "gcc-12-base", "grep", "gzip", "libacl1"),
    *("libattr1", "libbz2-1.0", "libc6", "libc-bin", "libcrypt1", "libgcc-s1", "libgmp10", "liblzma5"),
    *("libmd0", "libpcre2-8-0", "libselinux1", "libssl3", "libzstd1", "make", "sed", "tar", "zlib1g"),
)
"""Enough for shell scripts with coreutils, tar, make and dpkg-deb; names of Debian 12."""

BUILD_PACKAGES = (
    *("base-files", "bzip2", "coreutils", "dash", "debianutils", "diffutils", "dpkg", "findutils", "g++"),
    *("gcc", "grep", "gzip", "libc-bin", "libc6-dev", "make", "mawk", "patch", "sed", "tar", "xz-utils"),
)
"""What builds C and C++, of any release, by the names that have to be asked for."""

INSTALL_PACKAGES = (
    *("apt", "base-files", "base-passwd", "bash", "coreutils", "dash", "debconf", "debianutils", "diffutils"),
    *("dpkg", "findutils", "grep", "gzip", "hostname", "init-system-helpers", "libc-bin", "login", "mawk"),
    *("passwd", "perl-base", "sed", "tar", "util-linux"),
)
"""What installs packages, of any release: the small variant of Debian's base images."""

_LINKS = ("bin", "lib", "lib64", "sbin")
_DOCUMENTATION = tuple(f"usr/share/{name}/" for name in ("doc", "man", "info", "locale", "lintian", "gdb"))
_FILES = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n",
    "etc/group": "root:x:0:\nnogroup:x:65534:\n",
}


def release_context(
    cache: Path,
    directory: Path,
    architectures: Sequence[str],
    *,
    suite: str,
    packages: Sequence[str] = (),
    base: Sequence[str] = BUILD_PACKAGES,
) -> Path:
    """A build context in `directory` with roots of a release, from the packages of `base` and further
    `packages` with all that they depend on, without documentation. The roots are kept in `cache`. Raises
    `DebianError`."""
    wanted = sorted({*base, *packages})
    more = hashlib.sha256(" ".join(wanted).encode()).hexdigest()[:8]
    directory.mkdir(parents=True, exist_ok=True)
    for architecture in architectures:
        (each,) = (each for each in ARCHITECTURES if each.debian == architecture)

        def make(kept: Path, each: Architecture = each) -> None:
            place = cache / "debian" / f"apt-{suite}-{each.debian}"
            archive = DebianArchive(place, {suite: [each.debian]}, architecture=each.debian)
            with tempfile.TemporaryDirectory(dir=cache / "debian") as packed:
                files = archive.download_with_dependencies(wanted, Path(packed))
                (kept / f"rootfs-{each.target}.tar").write_bytes(_root(files, documented=False))

        name = f"rootfs-{each.target}.tar"
        os.link(cached(cache, f"root-{suite}-{architecture}-{more}", make) / name, directory / name)
    return directory


def package_repository(cache: Path, architecture: str, *, suite: str, packages: Sequence[str]) -> Path:
    """A directory from which apt can install `packages` and all that they depend on (`deb [trusted=yes]
    file:DIRECTORY ./`), kept in `cache`. Raises `DebianError`."""
    wanted = sorted(packages)
    more = hashlib.sha256(" ".join(wanted).encode()).hexdigest()[:8]

    def make(kept: Path) -> None:
        place = cache / "debian" / f"apt-{suite}-{architecture}"
        archive = DebianArchive(place, {suite: [architecture]}, architecture=architecture)
        paragraphs = []
        for path in archive.download_with_dependencies(wanted, kept):
            raw = path.read_bytes()
            fields = run_tool(["dpkg-deb", "--field", str(path)]).rstrip()
            where = f"Filename: ./{path.name}\nSize: {len(raw)}\nSHA256: {hashlib.sha256(raw).hexdigest()}\n"
            paragraphs.append(f"{fields}\n{where}")
        (kept / "Packages").write_text("\n".join(paragraphs))

    return cached(cache, f"repository-{suite}-{architecture}-{more}", make)


def root_context(cache: Path, name: str, architectures: Sequence[str], packages: Sequence[str]) -> Path:
    """A build context with the roots, kept in `cache` under `name`. Raises `DebianError`."""

    def make(directory: Path) -> None:
        wanted = [each for each in ARCHITECTURES if each.debian in architectures]
        archive = DebianArchive(
            cache / "debian" / f"apt-{name}", {"bookworm": [each.debian for each in wanted]}
        )
        specs = [f"{package}:{each.debian}" for each in wanted for package in packages]
        files = archive.download(specs, cache / "debian" / "packages")
        by_spec = dict(zip(specs, files, strict=True))
        for each in wanted:
            chosen = [by_spec[f"{package}:{each.debian}"] for package in packages]
            (directory / f"rootfs-{each.target}.tar").write_bytes(_root(chosen))

    return cached(cache, f"root-{name}", make)


def cross_packages(cache: Path, architecture: str, *, suite: str) -> Path:
    """A directory with the packages that the twins of compilers are made of, kept in `cache`: a source for
    `--accelerate cross,packages=`. Raises `NotSupported`."""
    from anyarch.emulation.accelerate.archive import Archive, PrivateApt, Repository
    from anyarch.emulation.accelerate.cross import default_compiler, host_packages, target_packages

    def make(directory: Path) -> None:
        (target,) = (each.target for each in ARCHITECTURES if each.debian == architecture)
        host = native()
        repository = Repository(machine_mirror(), suite, architectures=(host.debian, architecture))
        archive = Archive((repository,), {KEYRING.name: KEYRING.read_bytes()})
        with tempfile.TemporaryDirectory(dir=cache / "debian") as work:
            apt = PrivateApt(Path(work) / "apt", archive, host=host.debian, architectures=[architecture])
            gcc = default_compiler(apt.depends(f"gcc:{host.debian}"))
            sets = (host_packages(gcc, host.target, target), target_packages(gcc, target))
            names = [name for needed, _ in sets for name in needed]
            for path in apt.download(names, [name for _, more in sets for name in more]):
                path.rename(directory / path.name)

    return cached(cache, f"cross-{suite}-{architecture}", make)


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
        for found in files:
            member = copy.copy(found)  # links are looked up by the names that members had
            path = member.name.removeprefix("./").rstrip("/")
            if path in ("", "."):
                continue
            listed.append(f"/{path}")
            if not documented and path.startswith(_DOCUMENTATION):
                continue
            # of a hard link it is the content of what it leads to, which dpkg has a sum of as well
            content = files.extractfile(found) if member.isfile() or member.islnk() else None
            data = content.read() if content is not None else b""
            member.name = _merged(path)
            if member.islnk():
                member.linkname = _merged(member.linkname.removeprefix("./"))
            if content is not None:
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
