"""Packages as files: dpkg's own tools are the oracle."""

from __future__ import annotations

import io
import subprocess
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from anyarch.emulation.accelerate.deb import compare_versions, kept_files, wanted_files
from anyarch.errors import NotSupported

if TYPE_CHECKING:
    from pathlib import Path

VERSIONS = st.from_regex(r"([0-3]:)?[0-9][0-9a-b.+~]{0,5}(-[0-9a-b+~]{1,4})?", fullmatch=True)


@settings(max_examples=60, deadline=None)
@given(VERSIONS, VERSIONS)
@example("12.2.0-14", "12.2.0-14+deb12u1")
@example("1.0~rc1-1", "1.0-1")
@example("1:2-1", "10-1")
@example("2.0", "2.0-0")
@example("10b", "9")
def test_versions_are_ordered_as_dpkg_does(one: str, other: str) -> None:
    found = compare_versions(one, other)
    relation = "lt" if found < 0 else "gt" if found else "eq"

    assert subprocess.run(["dpkg", "--compare-versions", one, relation, other], check=False).returncode == 0
    assert (compare_versions(other, one) > 0) == (found < 0)


def package(directory: Path, compression: str) -> Path:
    tree = directory / "tree"
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "DEBIAN/control").write_text(
        "Package: thing\nVersion: 1:2-3\nArchitecture: amd64\nMulti-Arch: same\n"
        "Maintainer: A <a@example.org>\nDescription: a thing\n with more words\n"
    )
    for name, content in {"bin/thing": "program", "usr/lib/libthing.so.1.0": "library", "etc/x": "x"}.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(content)
    (tree / "bin/thing").chmod(0o755)
    (tree / "usr/lib/libthing.so.1").symlink_to("libthing.so.1.0")
    (tree / "bin/same").hardlink_to(tree / "bin/thing")
    path = directory / "thing_1%3a2-3_amd64.deb"
    subprocess.run(
        ["dpkg-deb", "--root-owner-group", f"-Z{compression}", "--build", str(tree), str(path)],
        check=True,
        capture_output=True,
    )
    return path


@pytest.mark.parametrize("compression", ["gzip", "xz", "zstd", "none"])
def test_programs_and_libraries_of_a_package_are_kept_with_what_dpkg_knows(
    tmp_path: Path, compression: str
) -> None:
    path = package(tmp_path, compression)
    with path.open("rb") as file:
        (files,) = kept_files([(path.name, file)]).values()
    found = {one.path: one for one in files}

    assert sorted(found) == [
        "usr/bin/same",
        "usr/bin/thing",
        "usr/lib/libthing.so.1",
        "usr/lib/libthing.so.1.0",
        "var/lib/dpkg/info/thing:amd64.list",
        "var/lib/dpkg/info/thing:amd64.md5sums",
        "var/lib/dpkg/status",
    ]
    assert (found["usr/bin/thing"].data, found["usr/bin/thing"].mode) == (b"program", 0o755)
    assert found["usr/bin/same"].data == b"program"
    assert found["usr/lib/libthing.so.1"].link == "libthing.so.1.0"
    assert b"Status: install ok installed\nPackage: thing\n" in found["var/lib/dpkg/status"].data


@given(st.binary(max_size=300), st.integers(0, 300))
def test_what_is_no_package_is_refused_with_its_name(raw: bytes, cut: int) -> None:
    for data in (raw, b"!<arch>\n" + raw, (b"!<arch>\n" + b"control.tar.gz  ".ljust(48) + raw)[:cut]):
        with pytest.raises(NotSupported, match=r"^x\.deb is not a Debian package that can be read"):
            kept_files([("x.deb", io.BytesIO(data))])


def test_a_package_that_ends_early_is_refused(tmp_path: Path) -> None:
    raw = package(tmp_path, "xz").read_bytes()
    for size in range(0, len(raw) - 1, 41):
        with pytest.raises(NotSupported, match=r"^x\.deb is not a Debian package"):
            kept_files([("x.deb", io.BytesIO(raw[:size]))])


def test_the_newest_of_each_wanted_package_is_taken() -> None:
    paths = [
        "a/gcc_9-1_amd64.deb",
        "b/gcc_10-1_amd64.deb",
        "gcc_11-1_arm64.deb",
        "c_1%3a1_amd64.deb",
        "x.deb",
    ]

    assert wanted_files(paths, ["gcc:amd64"], ["c:amd64", "d:amd64"]) == [
        "b/gcc_10-1_amd64.deb",
        "c_1%3a1_amd64.deb",
    ]
    with pytest.raises(NotSupported, match=r"these packages are not there: d:amd64, e:arm64$"):
        wanted_files(paths, ["gcc:amd64", "d:amd64", "e:arm64"], [])
