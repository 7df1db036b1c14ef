from __future__ import annotations

import pytest

from anyarch.errors import NoMatchingPlatform
from anyarch.registry.platforms import available_platforms, select_manifest
from anyarch.spec import media
from anyarch.spec.digest import Digest
from anyarch.spec.oci import Descriptor, Index, PlatformSpec
from anyarch.spec.platform import Platform


def entry(name, platform=None, **more):
    spec = None
    if platform:
        os, arch, *variant = platform.split("/")
        spec = PlatformSpec(arch, os, more.pop("os_version", ""), more.pop("os_features", ()), *variant)
    return Descriptor(media.OCI_MANIFEST, Digest.of(name.encode()), 1, platform=spec, **more)


def index(*entries):
    return Index(schema_version=2, manifests=tuple(entries))


def pick(wanted, *platforms):
    """The position of the entry that is chosen among `platforms`."""
    found = index(*(entry(f"{n}", p) for n, p in enumerate(platforms)))
    return found.manifests.index(select_manifest(found, Platform.parse(wanted)))


@pytest.mark.parametrize(
    ("wanted", "platforms", "position"),
    [
        ("linux/amd64", ["linux/arm64", "linux/amd64"], 1),
        ("linux/amd64", ["linux/amd64", "linux/amd64"], 0),
        ("linux/amd64", ["linux/386"], 0),
        ("linux/amd64/v3", ["linux/amd64", "linux/amd64/v2", "linux/amd64/v4"], 1),
        ("linux/amd64/v3", ["linux/amd64/v1"], 0),
        ("linux/arm64", ["linux/arm/v7", "linux/arm64/v8"], 1),
        ("linux/arm64", ["linux/arm/v6", "linux/arm/v7"], 1),
        ("linux/arm/v7", ["linux/arm/v5", "linux/arm/v6", "linux/arm64"], 1),
        ("linux/arm", ["linux/arm/v7"], 0),
        ("windows/amd64", ["linux/amd64", "windows/amd64"], 1),
        ("linux/riscv64", ["linux/riscv64"], 0),
    ],
)
def test_the_best_compatible_entry_is_chosen(wanted, platforms, position):
    assert pick(wanted, *platforms) == position


@pytest.mark.parametrize(
    ("wanted", "platforms"),
    [
        ("linux/s390x", ["linux/amd64", "linux/arm64"]),
        ("linux/amd64", ["linux/amd64/v2"]),
        ("linux/arm/v6", ["linux/arm/v7"]),
        ("linux/386", ["linux/amd64"]),
        ("darwin/amd64", ["linux/amd64"]),
    ],
)
def test_what_cannot_run_is_not_chosen(wanted, platforms):
    with pytest.raises(NoMatchingPlatform):
        pick(wanted, *platforms)


def test_the_error_lists_what_there_is():
    found = index(entry("a", "linux/amd64"), entry("b", "linux/arm64"), entry("c", "linux/amd64"))
    with pytest.raises(NoMatchingPlatform) as caught:
        select_manifest(found, Platform.parse("linux/s390x"), name="docker.io/library/x:latest")
    assert caught.value.message == (
        "no match for platform in manifest: docker.io/library/x:latest has no linux/s390x"
    )
    assert caught.value.hint == "available: linux/amd64, linux/arm64"
    assert caught.value.available == ("linux/amd64", "linux/arm64")


def test_attestations_never_match():
    annotations = {"vnd.docker.reference.type": "attestation-manifest"}
    found = index(entry("a", "unknown/unknown"), entry("b", "linux/amd64", annotations=annotations))
    with pytest.raises(NoMatchingPlatform, match="no linux/amd64") as caught:
        select_manifest(found, Platform.parse("linux/amd64"))
    assert caught.value.hint == "the index holds no image"


def test_entries_without_platform_are_asked_for_it():
    found = index(entry("a", "linux/arm64"), entry("b"), entry("c"))
    platforms = {found.manifests[2].digest: Platform.parse("linux/amd64")}
    chosen = select_manifest(
        found, Platform.parse("linux/amd64"), platform_of=lambda d: platforms.get(Digest(d.digest))
    )
    assert chosen == found.manifests[2]


def test_entries_without_platform_do_not_match_unasked():
    with pytest.raises(NoMatchingPlatform):
        select_manifest(index(entry("a")), Platform.parse("linux/amd64"))


def test_windows_builds_are_told_apart():
    found = index(
        entry("a", "windows/amd64", os_version="10.0.17763.1"),
        entry("b", "windows/amd64", os_version="10.0.20348.9"),
    )
    assert select_manifest(found, Platform.parse("windows(10.0.20348.1)/amd64")) == found.manifests[1]
    assert select_manifest(found, Platform.parse("windows/amd64")) == found.manifests[0]
    with pytest.raises(NoMatchingPlatform):
        select_manifest(found, Platform.parse("windows(10.0.99999)/amd64"))


def test_entries_with_fewer_demands_go_first():
    found = index(entry("a", "windows/amd64", os_features=("win32k",)), entry("b", "windows/amd64"))
    assert select_manifest(found, Platform.parse("windows/amd64")) == found.manifests[1]


def test_available_platforms_are_normalised_and_in_order():
    found = index(entry("a", "linux/arm64/v8"), entry("b", "unknown/unknown"), entry("c", "linux/arm"))
    assert [str(p) for p, _ in available_platforms(found)] == ["linux/arm64", "linux/arm/v7"]
