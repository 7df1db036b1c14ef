"""Which repositories packages come from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anyarch.emulation.accelerate.archive import Release, Repository, archive_of, release_of
from anyarch.source.local import HostTree

if TYPE_CHECKING:
    from pathlib import Path

NOBLE = Release("ubuntu", "noble")


def image(directory: Path, files: dict[str, str]) -> HostTree:
    for name, text in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    directory.mkdir(exist_ok=True)
    return HostTree(str(directory))


def test_a_release_is_what_the_image_says_it_is(tmp_path: Path) -> None:
    debian = image(
        tmp_path / "a", {"etc/os-release": 'ID=debian\nVERSION_CODENAME=bookworm\nNAME="Debian"\n'}
    )
    ubuntu = image(tmp_path / "b", {"etc/os-release": 'ID="ubuntu"\nVERSION_CODENAME="noble"\n'})

    assert (str(release_of(debian)), release_of(ubuntu)) == ("debian bookworm", NOBLE)
    assert release_of(image(tmp_path / "c", {})) == Release()


def test_each_architecture_has_the_repositories_of_its_image(tmp_path: Path) -> None:
    """Ubuntu keeps its ports elsewhere; personal archives and other releases are left out."""
    native = image(
        tmp_path / "native",
        {
            "etc/apt/sources.list.d/ubuntu.sources": (
                "Types: deb\nURIs: http://mirror.example/ubuntu/\nSuites: noble noble-updates\n"
                "Components: main universe\n\nTypes: deb\nURIs: http://ppa.launchpad.example/ubuntu\n"
                "Suites: noble\nComponents: main\n"
            ),
            "etc/apt/sources.list.d/other.list": "deb https://other.example/debian bookworm main\n",
            "usr/share/keyrings/ubuntu-archive-keyring.gpg": "key",
        },
    )
    target = image(
        tmp_path / "target",
        {"etc/apt/sources.list": "deb [signed-by=/x] http://ports.example/ubuntu-ports noble main\n"},
    )
    found = archive_of({"amd64": native, "arm64": target}, NOBLE)

    assert found.repositories == (
        Repository("http://mirror.example/ubuntu", "noble", ("main", "universe"), ("amd64",)),
        Repository("http://mirror.example/ubuntu", "noble-updates", ("main", "universe"), ("amd64",)),
        Repository("http://ports.example/ubuntu-ports", "noble", ("main",), ("arm64",)),
    )
    assert found.keys == {"ubuntu-archive-keyring.gpg": b"key"}


def test_images_that_name_no_repository_have_the_distributions_own(tmp_path: Path) -> None:
    bare = image(tmp_path / "bare", {})

    assert [one.uri for one in archive_of({"amd64": bare, "arm64": bare}, NOBLE).repositories] == [
        "http://archive.ubuntu.com/ubuntu",
        "http://ports.ubuntu.com/ubuntu-ports",
    ]
    (one,) = archive_of({"amd64": bare, "arm64": bare}, Release("debian", "trixie")).repositories
    assert one.architectures == ("amd64", "arm64")
