"""Small roots in the manner of Alpine, made from Debian's packages: most tools are busybox, apk knows all.

Alpine's own packages are not Debian's to give: the C library is glibc, told to be the package `musl`. The
configuration that Alpine's busybox has in it is put behind Debian's.
"""

from __future__ import annotations

import base64
import bz2
import hashlib
import io
import os
import subprocess
import tarfile
from typing import TYPE_CHECKING

from anyarch.testing.debian_archive import DebianArchive
from anyarch.testing.debian_images import ARCHITECTURES, cached

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

__all__ = ["apk_context", "apk_root", "with_database"]

CONFIGURATION = b"CONFIG_DESKTOP=y\n# CONFIG_FEATURE_SH_STANDALONE is not set\n"
APPLETS = (
    "arch ash awk bzip2 cat chmod cp dd echo expr find grep gzip head ln ls md5sum mkdir mv od readlink rm "
    "sed sh sha256sum sort stat tail tar touch uname wc xargs"
)
_PACKAGES = {"busybox": "1.35.0-r17", "musl": "1.2.3-r3"}
_FILES = {"etc/passwd": b"root:x:0:0:root:/root:/bin/sh\n", "etc/group": b"root:x:0:\n"}


def apk_context(cache: Path, architectures: Sequence[str]) -> Path:
    """A build context with `rootfs-$TARGETARCH.tar`, kept in `cache`. Raises `DebianError`."""

    def make(directory: Path) -> None:
        wanted = [each for each in ARCHITECTURES if each.debian in architectures]
        suites = {"bookworm": [each.debian for each in wanted]}
        archive = DebianArchive(cache / "debian" / "apt-apk", suites)
        names = [f"{name}:{each.debian}" for each in wanted for name in ("busybox", "libc6")]
        found = iter(archive.download(names, cache / "debian" / "packages"))
        for each in wanted:
            path = directory / f"rootfs-{each.target}.tar"
            path.write_bytes(_root(next(found), next(found), each.machine))

    return cached(cache, f"apk-{'-'.join(architectures)}", make)


def apk_root(packages: Mapping[str, Sequence[str]], files: Mapping[str, Path], machine: str) -> bytes:
    """A tar of `files` (by path; links stay links), each of which is one of a package's of `packages`."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as root:
        for directory in ("dev", "proc", "sys", "tmp"):
            info = tarfile.TarInfo(directory)
            info.type, info.mode = tarfile.DIRTYPE, 0o755
            root.addfile(info)
        for path, content in _FILES.items():
            _add(root, path, content)
        for path, file in files.items():
            if file.is_symlink():
                info = tarfile.TarInfo(path)
                info.type, info.linkname = tarfile.SYMTYPE, os.readlink(file)
                root.addfile(info)
            else:
                _add(root, path, file.read_bytes(), mode=0o755)
        kept = {path: file.read_bytes() for path, file in files.items() if not file.is_symlink()}
        paragraphs = [_paragraph(name, "1-r0", machine, paths, kept) for name, paths in packages.items()]
        _add(root, "lib/apk/db/installed", "".join(paragraphs).encode())
    return buffer.getvalue()


def with_database(root: bytes, machine: str, *, versions: Mapping[str, str] | None = None) -> bytes:
    """A root with another database of apk, of which the packages have other versions."""
    buffer = io.BytesIO(root)
    with tarfile.open(fileobj=buffer, mode="a") as files:
        _add(files, "lib/apk/db/installed", _database(root, machine, versions or {}))
    return buffer.getvalue()


def _root(busybox: Path, libc: Path, machine: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as root:
        for directory in ("dev", "proc", "sys", "tmp", "root"):
            info = tarfile.TarInfo(directory)
            info.type, info.mode = tarfile.DIRTYPE, 0o755
            root.addfile(info)
        for path, content in _FILES.items():
            _add(root, path, content)
        for name in APPLETS.split():
            info = tarfile.TarInfo(f"bin/{name}")
            info.type, info.linkname = tarfile.SYMTYPE, "/bin/busybox"
            root.addfile(info)
        for package in (busybox, libc):
            _unpack(package, root)
    return with_database(buffer.getvalue(), machine)


def _unpack(package: Path, root: tarfile.TarFile) -> None:
    """The program, or the libraries."""
    raw = subprocess.run(["dpkg-deb", "--fsys-tarfile", str(package)], capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(raw)) as files:
        for member in files:
            path = member.name.removeprefix("./")
            content = files.extractfile(member) if member.isreg() else None
            if path == "bin/busybox" and content is not None:
                _add(root, path, content.read() + bz2.compress(CONFIGURATION, 1)[2:], mode=0o755)
            elif path.startswith("lib") and "/gconv/" not in path and ".so" in path:
                member.name = path
                root.addfile(member, content)


def _database(root: bytes, machine: str, versions: Mapping[str, str]) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(root)) as files:
        names = [name for name in files.getnames() if name == "bin/busybox" or ".so" in name]
        members = {name: files.extractfile(name) for name in names if files.getmember(name).isreg()}
        kept = {name: content.read() for name, content in members.items() if content is not None}
    paragraphs = []
    for package, version in {**_PACKAGES, **versions}.items():
        own = [name for name in names if (name == "bin/busybox") == (package == "busybox")]
        paragraphs.append(_paragraph(package, version, machine, own, kept))
    return "".join(paragraphs).encode()


def _paragraph(
    package: str, version: str, machine: str, paths: Sequence[str], contents: Mapping[str, bytes]
) -> str:
    """What the database has of a package; `contents` are those of its files that are no links."""
    lines = [f"P:{package}", f"V:{version}", f"A:{machine}", f"o:{package}"]
    for path in paths:
        directory, _, base = path.rpartition("/")
        lines += [f"F:{directory}", f"R:{base}", "a:0:0:755"]
        if path in contents:
            lines.append(f"Z:Q1{base64.b64encode(hashlib.sha1(contents[path]).digest()).decode()}")
    return "\n".join(lines) + "\n\n"


def _add(root: tarfile.TarFile, path: str, content: bytes, *, mode: int = 0o644) -> None:
    info = tarfile.TarInfo(path)
    info.size, info.mode = len(content), mode
    root.addfile(info, io.BytesIO(content))
