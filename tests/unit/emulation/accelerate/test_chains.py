"""Which tool chains of a root have twins, and what is said of the others. Programs are this machine's own."""

from __future__ import annotations

import hashlib
import shutil
from typing import TYPE_CHECKING

import pytest

from anyarch.emulation.accelerate.chains import Scene, libraries_of
from anyarch.emulation.accelerate.clang import Clang
from anyarch.emulation.accelerate.golang import Go
from anyarch.emulation.accelerate.packages import Packages
from anyarch.emulation.accelerate.rust import Rust
from anyarch.emulation.accelerate.selection import TARGETS
from anyarch.emulation.accelerate.zig import Zig
from anyarch.snapshot.hosttree import HostTree
from anyarch.testing.debian_images import native

if TYPE_CHECKING:
    from pathlib import Path

HOST = native().target
TOOL = "usr/lib/go-1.19/pkg/tool/linux_arm64/compile"
OWN = f"usr/lib/go-1.19/pkg/tool/linux_{HOST}/compile"


def tree(
    directory: Path,
    versions: dict[str, str],
    files: dict[str, str] | None = None,
    programs: tuple[str, ...] = (),
) -> Packages:
    """A root whose `files` (path to owner) are a program of this machine; `programs` are of no package."""
    info = directory / "var/lib/dpkg/info"
    info.mkdir(parents=True)
    paragraphs = [
        f"Package: {name}\nStatus: install ok installed\nArchitecture: arm64\nVersion: {version}\n"
        for name, version in versions.items()
    ]
    (directory / "var/lib/dpkg/status").write_text("\n".join(paragraphs))
    for path in (*(files or {}), *programs):
        (directory / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2("/bin/true", directory / path)
    for path, owner in (files or {}).items():
        digest = hashlib.md5((directory / path).read_bytes(), usedforsecurity=False).hexdigest()
        with (info / f"{owner}.md5sums").open("a") as sums, (info / f"{owner}.list").open("a") as listed:
            sums.write(f"{digest}  {path}\n")
            listed.write(f"/{path}\n")
    return read(directory)


def read(directory: Path) -> Packages:
    return Packages(HostTree(str(directory)))


def scene(root: Packages, *natives: Packages, based: int = 0, missing: str = "") -> Scene:
    return Scene(root, based, natives, HOST, "arm64", missing)


def go_of(directory: Path, version: str, path: str) -> Packages:
    return tree(directory, {"golang-1.19-go": version}, {path: "golang-1.19-go"})


def test_a_go_of_another_version_has_no_twins(tmp_path: Path) -> None:
    root, other = go_of(tmp_path / "a", "1.19.8-2", TOOL), go_of(tmp_path / "b", "1.19.13-1", OWN)

    chosen = Go().choose(scene(root, other))
    failed = Go().choose(scene(root, tree(tmp_path / "c", {}), missing="it is not in the archive"))

    assert Go().packages(root, "arm64") == {"golang-1.19-go": "1.19.8-2"}
    assert chosen.emulated == {"golang-1.19-go": "version 1.19.8-2, but 1.19.13-1 of the native package"}
    assert failed.emulated == {"golang-1.19-go": "it is not in the archive"}
    assert chosen.twins == failed.twins == []


def test_a_compiler_that_is_not_the_packages_has_no_twin(tmp_path: Path) -> None:
    go_of(tmp_path / "a", "1.19.8-2", TOOL)
    own = go_of(tmp_path / "b", "1.19.8-2", OWN)
    with (tmp_path / "a" / TOOL).open("ab") as file:
        file.write(b"more")

    (reason,) = Go().choose(scene(read(tmp_path / "a"), own)).emulated.values()

    assert reason == f"/{TOOL} is not as its package brought it"


def test_a_go_of_no_package_has_to_be_of_the_base_image(tmp_path: Path) -> None:
    path = "usr/local/go/pkg/tool/linux_{}/compile"
    tree(tmp_path / "a", {}, programs=(path.format("arm64"),))
    tree(tmp_path / "b", {}, programs=(path.format(HOST),))
    for directory, version in (("a", "go1.22.1"), ("b", "go1.22.2")):
        (tmp_path / directory / "usr/local/go/VERSION").write_text(f"{version}\ntime 2024-01-01\n")

    root, sibling = read(tmp_path / "a"), read(tmp_path / "b")
    by_step, other = (Go().choose(scene(root, sibling, based=based)).emulated for based in (0, 1))

    assert by_step == {"/usr/local/go": "go1.22.1 is not the base image's, but came by a step"}
    assert other == {"/usr/local/go": "go1.22.1, but go1.22.2 in the native image"}


def test_a_root_without_tool_chains_asks_for_nothing(tmp_path: Path) -> None:
    root = tree(tmp_path / "a", {"base-files": "12"})

    for chain in (Go(), Clang(), Rust(), Zig()):
        chosen = chain.choose(scene(root, root))
        assert chain.packages(root, "arm64") == {}
        assert (chosen.twins, chosen.files, chosen.emulated) == ([], {}, {})


def rust_of(directory: Path, version: str) -> Packages:
    """Whose target's libraries are there."""
    (directory / "usr/lib/rustlib/aarch64-unknown-linux-gnu/lib/core.rlib").mkdir(parents=True)
    return tree(directory, {"rustc": version}, {"usr/bin/rustc": "rustc"})


def test_a_rustc_of_another_version_has_no_twin(tmp_path: Path) -> None:
    root, other = rust_of(tmp_path / "a", "1.63.0+dfsg1-2"), rust_of(tmp_path / "b", "1.85.0+dfsg3-1")

    emulated = Rust().choose(scene(root, other)).emulated

    assert emulated == {"rustc": "version 1.63.0+dfsg1-2, but 1.85.0+dfsg3-1 of the native package"}


@pytest.mark.parametrize("target", ["arm", "riscv64", "s390x"])
def test_rustc_has_no_twin_where_none_is_known_to_do_the_same(tmp_path: Path, target: str) -> None:
    root = rust_of(tmp_path / "a", "1.63.0")

    chosen = Rust().choose(scene(root, root)._replace(target=target))

    assert chosen.emulated == {"rustc": f"no native rustc is known to do the same as that of {target}"}
    assert Rust().packages(root, target) == {}


def test_a_rustc_of_rustup_has_to_be_of_the_base_image(tmp_path: Path) -> None:
    place = "usr/local/rustup/toolchains/1.80.1-{}-unknown-linux-gnu/bin/rustc"
    tree(tmp_path / "a", {}, programs=(place.format("aarch64"),))
    (tmp_path / "a/usr/local/rustup/toolchains/mine").mkdir()
    root = read(tmp_path / "a")

    by_step, of_base = (Rust().choose(scene(root, root, based=based)).emulated for based in (0, 1))

    path = f"/{place.format('aarch64')}"
    assert by_step[path] == f"{path} is not the base image's, but came by a step"
    assert of_base[path] == "the library libc.so.6 is missing"
    assert "no native rustc is known" in by_step["/usr/local/rustup/toolchains/mine/bin/rustc"]


WHEEL = "usr/local/lib/python3.11/site-packages/ziglang/zig"
ARCHIVE = "opt/zig-linux-{}-0.14.0/zig"


def zig_of(directory: Path, versions: dict[str, str]) -> Packages:
    """Programs that call themselves Zig of a version."""
    tree(directory, {}, programs=tuple(versions))
    for path, version in versions.items():
        with (directory / path).open("ab") as file:
            file.write(f"\0zig {version}\0/proc/self/exe\0".encode())
    return read(directory)


def test_a_zig_of_another_release_than_the_native_one_has_no_twin(tmp_path: Path) -> None:
    root = zig_of(tmp_path / "a", {WHEEL: "0.14.1", ARCHIVE.format("aarch64"): "0.14.0"})
    other = zig_of(tmp_path / "b", {WHEEL: "0.15.2"})

    chosen = Zig().choose(scene(root, other, based=1))

    assert chosen.twins == []
    assert chosen.emulated == {
        f"/{WHEEL}": "Zig 0.14.1, but 0.15.2 in the native image",
        f"/{ARCHIVE.format('aarch64')}": "Zig 0.14.0, but none in the native image",
    }


def test_a_zig_has_to_be_of_the_base_image(tmp_path: Path) -> None:
    root = zig_of(tmp_path / "a", {WHEEL: "0.14.1"})

    chosen = Zig().choose(scene(root, root, based=0))

    assert chosen.emulated == {f"/{WHEEL}": "it is not the base image's, but came by a step"}


@pytest.mark.parametrize(
    ("version", "target", "reason"),
    [
        ("0.13.0", "arm64", "Zig 0.13.0 is none of the releases that were compared: 0.14"),
        (
            "0.14.0-dev.7+abc",
            "arm64",
            "Zig 0.14.0-dev.7+abc is none of the releases that were compared: 0.14",
        ),
        ("2", "arm64", "Zig of no known release, but none in the native image"),
        ("0.14.1", "arm", "no native Zig is known to do the same as that of arm"),
    ],
)
def test_a_zig_that_was_not_compared_has_no_twin(
    tmp_path: Path, version: str, target: str, reason: str
) -> None:
    root = zig_of(tmp_path / "a", {WHEEL: version})

    chosen = Zig().choose(scene(root, root, based=1)._replace(target=target))

    assert chosen.emulated == {f"/{WHEEL}": reason}


def test_the_name_of_an_archive_of_zig_has_the_machine_in_it(tmp_path: Path) -> None:
    machine = native().machine
    root = zig_of(tmp_path / "a", {ARCHIVE.format("aarch64"): "0.14.0"})
    sibling = zig_of(tmp_path / "b", {ARCHIVE.format(machine): "0.14.0"})
    (tmp_path / "a/usr/local").mkdir(parents=True)
    (tmp_path / "a/usr/local/zig").symlink_to("../../opt/zig-linux-aarch64-0.14.0")
    root = read(tmp_path / "a")

    (reason,) = Zig().choose(scene(root, sibling, based=1)).emulated.values()

    assert reason.startswith("/lib")  # the program is this machine's `true`, whose loader is missing
    assert reason.endswith(" is missing")


@pytest.mark.parametrize("target", sorted(TARGETS))
def test_the_libraries_of_foreign_programs_are_found(tmp_path: Path, target: str) -> None:
    library = f"lib/{TARGETS[target].multiarch}/libc.so.6"
    root = tree(tmp_path, {"clang": "1", "libc6": "2"}, {"usr/bin/clang": "clang", library: "libc6"})

    assert libraries_of(root, target, ["usr/bin/clang"]) == {"libc6": "2"}


def test_clang_of_32_bits_is_emulated(tmp_path: Path) -> None:
    root = tree(tmp_path, {"clang-14": "1"}, {"usr/lib/llvm-14/bin/clang": "clang-14"})
    chosen = Clang().choose(Scene(root, 0, (root,), HOST, "arm", ""))

    assert Clang().packages(root, "arm") == {}
    assert not chosen.twins
    assert chosen.emulated == {"clang-14": "what depends on the width of words in it is not known"}
