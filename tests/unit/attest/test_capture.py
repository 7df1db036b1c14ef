"""What graphs are made of."""

from __future__ import annotations

import pytest

from anyarch.attest.capture import Capture, GitSource, HttpSource, ImageSource, capture_of, redacted
from anyarch.llb.ops import ActionCopy, NetMode
from anyarch.llb.source import http, image, local
from anyarch.llb.state import CopySource, ExecMount, ExecSecret, ExecSsh, State
from anyarch.spec.platform import Platform
from anyarch.spec.reference import Reference

AMD64, ARM64 = Platform("linux", "amd64"), Platform("linux", "arm64")


def busybox(platform: Platform | None, name: str = "busybox") -> ImageSource:
    return ImageSource(Reference.parse(name), platform, "sha256:" + "1" * 64)


def test_every_source_that_the_result_needs_is_captured_once() -> None:
    base = image("busybox", platform=AMD64)
    download = http("https://user:secret@example.com/file")
    made = base.file(
        CopySource(local("context"), ActionCopy("/a", "/")), CopySource(download, ActionCopy("/file", "/"))
    ).run(["true"], mounts=[ExecMount("/m", base, readonly=True)])
    pins = {"docker-image://docker.io/library/busybox:latest": "sha256:" + "2" * 64}
    definition = made.root.marshal()
    by_digest = dict(definition.decoded)

    def pin(digest: str) -> str:
        return pins.get(getattr(by_digest[digest].kind, "identifier", ""), "sha256:" + "3" * 64)

    found = capture_of(definition, pin)
    assert found.images == [ImageSource(Reference.parse("busybox"), AMD64, "sha256:" + "2" * 64)]
    assert found.downloads == [HttpSource("https://xxxxx:xxxxx@example.com/file", "sha256:" + "3" * 64)]
    assert found.locals == {"context"}
    assert found.has_network


def test_steps_without_network_and_what_they_are_lent() -> None:
    base = image("busybox", platform=AMD64).set_network(NetMode.NONE)
    made = base.run(
        ["true"],
        secrets=[ExecSecret("a", target="/a", optional=True), ExecSecret("b", env="B")],
        ssh=[ExecSsh("", optional=True)],
    )
    again = made.root.run(["true"], secrets=[ExecSecret("a", target="/a")])
    found = capture_of(again.root.marshal(), lambda digest: "")
    assert not found.has_network
    assert found.secrets == {"a": False, "b": False}  # one step could not do without it
    assert found.ssh == {"default": True}


def test_the_empty_result_is_made_of_nothing() -> None:
    found = capture_of(State().marshal(), lambda digest: "")
    assert not found.images
    assert not found.locals
    assert not found.has_network


def test_an_image_by_digest_goes_where_it_is_there_by_its_name() -> None:
    digest = "sha256:" + "1" * 64
    found = Capture()
    for name in (f"busybox:latest@{digest}", "busybox", f"alpine@{digest}"):
        found.add_image(busybox(AMD64, name))
    found.settle()
    assert [str(item.reference) for item in found.images] == [
        f"docker.io/library/alpine@{digest}",
        "docker.io/library/busybox:latest",
    ]


def test_an_image_counts_once_a_platform() -> None:
    found = Capture()
    for platform in (AMD64, ARM64, AMD64, None):
        found.add_image(busybox(platform))
    assert [item.platform for item in found.images] == [AMD64, ARM64, None]


def test_a_repository_in_a_bundle_is_another_material_than_its_remote() -> None:
    one, other = Capture(), Capture()
    one.add_repository(GitSource("https://example.com/a.git", "c" * 40))
    other.add_repository(GitSource("https://example.com/a.git", "c" * 40))
    other.add_repository(GitSource("https://example.com/a.git", "c" * 40, "docker-image+blob://x/y@sha256:1"))
    one.merge(other)
    assert len(one.repositories) == 2


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://example.com/a.git#v1", "https://example.com/a.git#v1"),
        ("https://user:pass@example.com/a.git#v1", "https://xxxxx:xxxxx@example.com/a.git#v1"),
        ("https://token@example.com/a", "https://xxxxx@example.com/a"),
        ("https://:pass@example.com/a?b=c", "https://:xxxxx@example.com/a?b=c"),
        ("git@example.com:a/b.git", "git@example.com:a/b.git"),
    ],
)
def test_no_user_or_password_is_told(url: str, expected: str) -> None:
    assert redacted(url) == expected
