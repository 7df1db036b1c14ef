"""What we write, others read; what they write, we read."""

from __future__ import annotations

import json
import shlex
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from anyarch.engine.request import Output
from anyarch.testing.builder import Builder

from .tools import buildah, in_private_emulation, podman, podman_run, run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import Bases

pytestmark = [pytest.mark.interop, pytest.mark.root, pytest.mark.emulation]

TWO = ("linux/amd64", "linux/arm64")
RECIPE = """
    FROM busybox
    RUN uname -m > /arch && mkdir /d && ln -s ../arch /d/link && echo data > /d/file
    RUN rm /d/link && chown 7:8 /d/file && chmod 4711 /d/file
    COPY --chown=1:2 a /copied/
    CMD ["cat", "/arch", "/copied/a"]
"""


@pytest.fixture
def build(tmp_path: Path, bases: Bases, monkeypatch: pytest.MonkeyPatch) -> Builder:
    monkeypatch.setenv("ANYARCH_REGISTRY_MIRRORS", bases.environment["ANYARCH_REGISTRY_MIRRORS"])
    return Builder(tmp_path)


@pytest.fixture
def short_path() -> Iterator[Path]:
    """podman allows its run directory 50 characters, and pytest's are longer."""
    with tempfile.TemporaryDirectory(prefix="interop") as directory:
        yield Path(directory)


def pushed(build: Builder, bases: Bases, name: str, **attrs: str) -> str:
    """Push the recipe for two platforms; its reference."""
    reference = f"{bases.registry}/interop/{name}:1"
    output = Output("image", attrs={"name": reference, "push": "true", **attrs})
    build(RECIPE, platform=TWO, files={"a": "A\n"}, outputs=(output,))
    return reference


def test_skopeo_copies_a_layout_whole_and_keeps_its_digest(build: Builder, tmp_path: Path) -> None:
    image = build(RECIPE, platform=TWO, files={"a": "A\n"}, tags=("interop:1",))
    raw = run("skopeo", "inspect", "--raw", f"oci:{image.layout}:1")
    assert raw.encode() == image.blob(image.result.digest or "")
    for platform in TWO:
        architecture = platform.partition("/")[2]
        config = run(
            "skopeo", "inspect", "--config", "--override-arch", architecture, f"oci:{image.layout}:1"
        )
        assert json.loads(config)["architecture"] == architecture
    run("skopeo", "copy", "--quiet", "--all", f"oci:{image.layout}:1", f"oci:{tmp_path / 'copy'}:1")
    assert run("skopeo", "inspect", "--raw", f"oci:{tmp_path / 'copy'}:1") == raw


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_skopeo_copies_what_was_pushed(
    build: Builder, bases: Bases, tmp_path: Path, compression: str
) -> None:
    forced = {"compression": compression, "force-compression": "true"}
    reference = pushed(build, bases, f"skopeo-{compression}", **forced)
    raw = run("skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{reference}")
    run(
        "skopeo",
        "copy",
        "-q",
        "--all",
        "--src-tls-verify=false",
        f"docker://{reference}",
        f"oci:{tmp_path / 'c'}:1",
    )
    assert run("skopeo", "inspect", "--raw", f"oci:{tmp_path / 'c'}:1") == raw


def test_podman_runs_what_was_pushed_and_what_is_loaded(
    build: Builder, bases: Bases, short_path: Path, tmp_path: Path
) -> None:
    reference = pushed(build, bases, "podman")
    run(*podman(short_path, "pull", "-q", "--tls-verify=false", reference))
    assert podman_run(short_path, reference) == "x86_64\nA\n"
    listed = podman_run(short_path, reference, "ls", "-ln", "/d", "/copied").split("\n")
    fields = [line.split() for line in listed if line.startswith("-")]
    assert sorted((f[0], f[2], f[3], f[-1]) for f in fields) == [
        ("-rw-r--r--", "1", "2", "a"),
        ("-rws--x--x", "7", "8", "file"),
    ]
    archive = tmp_path / "image.tar"
    build(RECIPE, tags=("loaded:1",), outputs=(Output("docker", str(archive)),))
    run(*podman(short_path, "load", "-q", "-i", str(archive)))
    assert podman_run(short_path, "docker.io/library/loaded:1") == "x86_64\nA\n"
    layout = tmp_path / "layout.tar"
    build(RECIPE, platform=TWO, tags=("both:1",), outputs=(Output("oci", str(layout)),))
    run(*podman(short_path, "load", "-q", "-i", str(layout)))
    assert podman_run(short_path, "docker.io/library/both:1") == "x86_64\nA\n"


def test_buildah_runs_each_platform_of_what_was_pushed(build: Builder, bases: Bases, tmp_path: Path) -> None:
    reference = pushed(build, bases, "buildah")
    for architecture, machine in (("amd64", "x86_64"), ("arm64", "aarch64")):
        directory = tmp_path / architecture
        pull = buildah(
            directory, "from", "-q", "--name", "c", "--arch", architecture, "--tls-verify=false", reference
        )
        step = buildah(directory, "run", "--isolation", "chroot", "c", "--")
        inside = "\n".join(shlex.join([*step, *words]) for words in (("uname", "-m"), ("cat", "/arch")))
        script = (
            f"{shlex.join(pull)} >/dev/null\n{inside}\n{shlex.join(buildah(directory, 'rm', 'c'))} >/dev/null"
        )
        assert in_private_emulation(script).split() == [machine, machine]


def test_images_of_others_are_bases_in_either_media_types(build: Builder, bases: Bases) -> None:
    base = f"docker://{bases.registry}/library/busybox"
    for form in ("v2s2", "oci"):
        copied = f"{bases.registry}/interop/base-{form}:1"
        run(
            *("skopeo", "copy", "-q", "--format", form, "--src-tls-verify=false", "--dest-tls-verify=false"),
            *(base, f"docker://{copied}"),
        )
        image = build(f"FROM {copied}\nRUN echo ok > /ok\n")
        assert image.read_text("/ok") == "ok\n"
        assert all("oci" in layer.media_type for layer in image.manifest().layers)


def test_docker_media_types_on_request(build: Builder, bases: Bases) -> None:
    reference = pushed(build, bases, "docker-types", **{"oci-mediatypes": "false"})
    raw = json.loads(run("skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{reference}"))
    assert raw["mediaType"] == "application/vnd.docker.distribution.manifest.list.v2+json"
    assert {m["mediaType"] for m in raw["manifests"]} == {
        "application/vnd.docker.distribution.manifest.v2+json"
    }
