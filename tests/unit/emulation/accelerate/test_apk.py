"""apk's database of a tree, and which of Alpine's tools may have a twin."""

from __future__ import annotations

import base64
import bz2
import hashlib
from typing import TYPE_CHECKING

import pytest

from anyarch.emulation.accelerate.alpine import AlpineTools
from anyarch.emulation.accelerate.packages import Package, Packages
from anyarch.emulation.accelerate.twins import choose_tools, tools_of
from anyarch.errors import NotSupported
from anyarch.snapshot.hosttree import HostTree

if TYPE_CHECKING:
    from pathlib import Path

CONTENT = b"a program\n"
SHA1, SHA256 = hashlib.sha1(CONTENT).digest(), hashlib.sha256(CONTENT).digest()
CONFIGURATION = b"CONFIG_DESKTOP=y\n# CONFIG_FEATURE_SH_STANDALONE is not set\n"
PACKED = bz2.compress(CONFIGURATION, 1)[2:]  # as Alpine packs it
BANNER = b"\0BusyBox v1.36.1 (2024-06-10 07:11:47 UTC)\0"
APPLETS = b"\0[\0[[\0ash\0awk\0cat\0date\0od\0sh\0uname\0" + PACKED
LATER = b"\0tar" + APPLETS


def q(digest: bytes, kind: str = "1") -> str:
    return f"Q{kind}{base64.b64encode(digest).decode()}"


def database(
    *, architecture: str = "aarch64", busybox: str = "1.36.1-r29", origin: str = "busybox", musl: str = "musl"
) -> str:
    return f"""C:{q(SHA1)}
P:alpine-baselayout
V:3.6.5-r0
A:{architecture}
o:alpine-baselayout
F:
R:.hidden
Z:{q(SHA1)}
F:var
M:0:0:755
R:run
a:0:0:777
Z:{q(SHA1)}

P:{musl}
V:1.2.5-r0
A:{architecture}
T:it says: a colon
o:musl
F:lib
R:ld-musl-{architecture}.so.1
a:0:0:755
Z:{q(SHA1)}
R:libc.musl-{architecture}.so.1

P:busybox
V:{busybox}
A:{architecture}
o:{origin}
F:bin
R:busybox
a:0:0:755
Z:{q(SHA1)}

"""


def tree(directory: Path, text: str, files: dict[str, bytes] | None = None) -> Packages:
    for path, content in {"lib/apk/db/installed": text.encode(), **(files or {})}.items():
        (directory / path).parent.mkdir(parents=True, exist_ok=True)
        (directory / path).write_bytes(content)
    return Packages(HostTree(str(directory)))


def test_packages_files_and_owners_are_those_of_the_database(tmp_path: Path) -> None:
    packages = tree(tmp_path, database(), {"lib/libc.musl-aarch64.so.1": b""})

    assert packages.kind == "apk"
    assert packages.installed["busybox"] == Package("busybox", "1.36.1-r29", "aarch64", "busybox")
    assert packages.files("alpine-baselayout") == [".hidden", "var/run"]
    assert packages.owner("lib/libc.musl-aarch64.so.1") == "musl"
    assert packages.files("none") == []


@pytest.mark.parametrize(
    ("checksum", "is_intact"),
    [
        *[(text, True) for text in (q(SHA1), "X1" + SHA1.hex(), q(SHA256), q(SHA256, "2"))],
        *[(text, True) for text in (q(SHA256[:20], "2"), "X2" + SHA256[:20].hex())],
        *[(text, False) for text in (q(SHA256[:20]), q(SHA1, "2"), q(b"\0" * 20), q(SHA1[:10]), q(b""))],
        *[(text, False) for text in ("", "Q", "Q1", "Q1*", "X1zz", "Q3" + q(SHA1)[2:], SHA1.hex())],
    ],
)
def test_a_file_is_compared_with_the_checksum_that_apk_has(
    tmp_path: Path, checksum: str, *, is_intact: bool
) -> None:
    text = f"P:one\nV:1-r0\nA:x86_64\nF:bin\nR:one\nZ:{checksum}\n"
    packages = tree(tmp_path, text, {"bin/one": CONTENT})

    assert packages.is_intact("one", "bin/one") == is_intact


def test_the_database_can_be_below_usr_and_dpkg_comes_first(tmp_path: Path) -> None:
    (tmp_path / "usr/lib/apk/db").mkdir(parents=True)
    (tmp_path / "usr/lib/apk/db/installed").write_text(database())
    assert sorted(Packages(HostTree(str(tmp_path))).installed) == ["alpine-baselayout", "busybox", "musl"]

    (tmp_path / "var/lib/dpkg").mkdir(parents=True)
    (tmp_path / "var/lib/dpkg/status").write_text(
        "Package: apk\nStatus: install ok installed\nVersion: 1\nArchitecture: arm64\n"
    )
    packages = Packages(HostTree(str(tmp_path)))
    assert (packages.kind, list(packages.installed)) == ("dpkg", ["apk"])


def pair(tmp_path: Path, **native: str) -> tuple[Packages, Packages]:
    own = tree(tmp_path / "own", database(**{"architecture": "x86_64", **native}))
    return tree(tmp_path / "other", database()), own


@pytest.mark.parametrize(
    ("native", "reason"),
    [
        ({"busybox": "1.36.1-r28"}, "version 1.36.1-r29, but 1.36.1-r28 in the native image"),
        ({"origin": "busybox-next"}, "it is built from busybox, the native one from busybox-next"),
    ],
)
def test_name_version_and_origin_have_to_be_equal(
    tmp_path: Path, native: dict[str, str], reason: str
) -> None:
    target, own = pair(tmp_path, **native)

    assert choose_tools(target, own, "t", host="amd64", architecture="arm64").emulated == {"busybox": reason}


def test_trees_of_two_distributions_or_another_c_library_have_no_twins(tmp_path: Path) -> None:
    target, other = pair(tmp_path, musl="glibc")
    debian = Packages(HostTree(str(tmp_path)))  # no packages at all

    for native, reason in ((debian, "its packages are apk's, those of the native image dpkg's"), (other, "")):
        with pytest.raises(NotSupported, match=reason or "its C library is not musl"):
            tools_of(target, native, host="amd64", architecture="arm64")


@pytest.mark.parametrize("architecture", ["arm64", "arm", "riscv64", "s390x", "ppc64le"])
def test_what_could_give_another_result_is_never_twinned(tmp_path: Path, architecture: str) -> None:
    tools = AlpineTools(*pair(tmp_path), architecture)
    names = (
        b"\0uname\0arch\0linux32\0linux64\0od\0hexdump\0hd\0seq\0shuf\0su\0login\0passwd\0ps\0top\0free\0getty"
        b"\0modprobe\0insmod\0mount\0cat\0hostid\0who\0busybox\0bbconfig\0adduser\0time\0"
    )
    (condition,) = tools.conditions("busybox", names + PACKED, names + PACKED)

    assert condition.names == ("cat",)
    assert condition.wrapper == "busybox"
    for package in ("apk-tools", "musl-utils", "scanelf", "busybox-suid", "ssl_client", "bash", "python3"):
        assert tools.programs(package) == frozenset()


def test_an_applet_is_native_if_both_have_it(tmp_path: Path) -> None:
    target, own = pair(tmp_path)
    found = {
        architecture: AlpineTools(target, own, architecture).conditions(
            "busybox", APPLETS, APPLETS + b"tar\0"
        )
        for architecture in ("arm64", "arm")
    }

    assert found["arm64"][0].names == ("[", "[[", "ash", "awk", "cat", "date", "sh")
    assert found["arm"][0].names == ("[", "[[", "ash", "cat", "sh")
    with pytest.raises(NotSupported, match="which programs it is cannot be told"):
        AlpineTools(target, own, "arm64").conditions("busybox", PACKED, PACKED)


@pytest.mark.parametrize(
    ("theirs", "ours", "reason"),
    [
        (b"", b"", "is not known"),
        (b"", PACKED, "is not that of the native one"),
        (bz2.compress(CONFIGURATION + b"CONFIG_X=y\n")[2:], PACKED, "is not that of the native one"),
        *[
            (bz2.compress(f"CONFIG_X=y\nCONFIG_{name}=y\n".encode())[2:],) * 2
            + (f"every other program too .{name}",)
            for name in ("FEATURE_SH_STANDALONE", "FEATURE_PREFER_APPLETS", "FEATURE_SH_NOFORK")
        ],
        (b"h91AY&SY" * 3, b"h91AY&SY", "is not known"),
        (PACKED, b"h91AY&SY" * 100_000 + PACKED, "is not known"),
    ],
)
def test_a_busybox_that_runs_its_programs_itself_has_no_twin(
    tmp_path: Path, theirs: bytes, ours: bytes, reason: str
) -> None:
    tools = AlpineTools(*pair(tmp_path), "arm64")

    with pytest.raises(NotSupported, match=reason):
        tools.conditions("busybox", APPLETS.replace(PACKED, theirs), APPLETS.replace(PACKED, ours))


def test_the_time_of_building_is_that_of_the_foreign_busybox(tmp_path: Path) -> None:
    tools = AlpineTools(*pair(tmp_path), "arm64")
    later = BANNER.replace(b":47", b":58")

    assert (tools.texts("busybox", BANNER, BANNER), tools.texts("tar", b"", b"")) == ({}, None)
    assert tools.texts("busybox", BANNER, later) == {later[1:-1]: BANNER[1:-1]}
    with pytest.raises(NotSupported, match="it tells its version in another way"):
        tools.texts("busybox", BANNER, b"")
