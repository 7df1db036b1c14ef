"""Versions of packages."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest

from anyarch.emulation.accelerate.packages import Packages, is_same_source
from anyarch.snapshot.hosttree import HostTree

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("version", "other", "is_same"),
    [
        ("3.11-4", "3.11-4", True),
        ("3.11-4+b1", "3.11-4", True),
        ("3.11-4+b1", "3.11-4+b12", True),
        ("3.11-4", "3.11-5", False),
        ("12.2.0-14", "12.2.0-14+deb12u1", False),
        ("1.3.dfsg+really1.3.1-1+b1", "1.3.dfsg+really1.3.1-1+b1", True),
        ("", "", False),
    ],
)
def test_a_package_that_was_built_anew_is_of_the_same_source(
    version: str, other: str, *, is_same: bool
) -> None:
    assert is_same_source(version, other) == is_same


def test_the_owner_of_a_library_is_the_package_that_has_the_file_and_not_a_link_to_it(tmp_path: Path) -> None:
    info = tmp_path / "var/lib/dpkg/info"
    info.mkdir(parents=True)
    (tmp_path / "usr/lib").mkdir(parents=True)
    (tmp_path / "lib").symlink_to("usr/lib")
    (tmp_path / "usr/lib/liba.so.1").write_text("")
    (tmp_path / "usr/lib/liba.so").symlink_to("liba.so.1")
    paths = {"a-tools": "usr/lib/liba.so", "liba": "lib/liba.so.1", "liba-dev": "usr/lib/liba.so"}
    status = [
        f"Package: {name}\nStatus: install ok installed\nArchitecture: arm64\nVersion: 1\n" for name in paths
    ]
    (tmp_path / "var/lib/dpkg/status").write_text("\n".join(status))
    for name, path in paths.items():
        (info / f"{name}.list").write_text(f"/{path}\n")

    packages = Packages(HostTree(str(tmp_path)))

    assert packages.owner("usr/lib/liba.so") == packages.owner("lib/liba.so.1") == "liba"


@pytest.mark.parametrize("content", [b"library", b"another"])
def test_a_library_is_intact_while_the_file_behind_its_links_is_what_the_package_brought(
    tmp_path: Path, content: bytes
) -> None:
    info = tmp_path / "var/lib/dpkg/info"
    info.mkdir(parents=True)
    (tmp_path / "usr/lib").mkdir(parents=True)
    (tmp_path / "lib").symlink_to("usr/lib")
    (tmp_path / "usr/lib/libz.so.1.2").write_bytes(content)
    (tmp_path / "usr/lib/libz.so.1").symlink_to("libz.so.1.2")
    (tmp_path / "var/lib/dpkg/status").write_text(
        "Package: zlib1g\nStatus: install ok installed\nArchitecture: arm64\nVersion: 1\n"
    )
    (info / "zlib1g.list").write_text("/lib/libz.so.1\n/lib/libz.so.1.2\n")
    digest = hashlib.md5(b"library", usedforsecurity=False).hexdigest()
    (info / "zlib1g.md5sums").write_text(f"{digest}  lib/libz.so.1.2\n")

    packages = Packages(HostTree(str(tmp_path)))

    assert packages.is_library_intact("zlib1g", "lib/libz.so.1") == (content == b"library")
    assert not packages.is_library_intact("zlib1g-dev", "lib/libz.so.1")
