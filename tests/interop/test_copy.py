"""Copies between registries, layouts, archives and stores, as other tools see them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from itertools import pairwise
from pathlib import Path

import pytest

from anyarch.testing.debian_docker import DebianDocker
from anyarch.testing.registry import FakeRegistry

from ..conftest import run_anyarch
from .tools import buildah, podman, run

pytestmark = [pytest.mark.interop, pytest.mark.root]

DOCKERFILE = 'FROM scratch\nARG TARGETARCH\nCOPY file /common\nCOPY file /$TARGETARCH\nCMD ["/none"]\n'


@pytest.fixture(scope="module")
def docker(tmp_path_factory):
    with DebianDocker(tmp_path_factory.mktemp("docker")) as engine:
        yield engine


@pytest.fixture
def environment(clean_environment, tmp_path):
    return {**clean_environment, "ANYARCH_ROOT": str(tmp_path / "store"), "HOME": str(tmp_path)}


@pytest.fixture
def image(environment, tmp_path):
    """app:1 for two platforms in the store; the digest of its index."""
    context = tmp_path / "context"
    context.mkdir()
    (context / "Dockerfile").write_text(DOCKERFILE)
    (context / "file").write_text("x" * 5000)
    return run_anyarch(
        *("build", "-q", "--platform", "linux/amd64,linux/arm64", "-t", "app:1", str(context)),
        environment=environment,
    ).strip()


def copy(environment, *words):
    return run_anyarch("copy", "-q", *words, environment=environment).split()


def skopeo_digest(*words):
    raw = run("skopeo", "inspect", "--raw", *words)
    import hashlib

    return f"sha256:{hashlib.sha256(raw.encode()).hexdigest()}"


def test_a_round_through_every_place_keeps_the_digest(environment, image, registry, tmp_path):
    app = f"{registry.address}/copies/app"
    stops = (
        "store://app:1",
        f"oci-layout://{tmp_path}/layout:1",
        f"{app}:1",
        f"{registry.address}/copies/second:1",
        f"oci-layout://{tmp_path}/layout.tar:1",
        "store://back:1",
    )
    for source, target in pairwise(stops):
        assert copy(environment, source, target) == [image]
    assert skopeo_digest("--tls-verify=false", f"docker://{app}:1") == image
    assert skopeo_digest(f"oci:{tmp_path}/layout:1") == image
    assert skopeo_digest(f"oci-archive:{tmp_path}/layout.tar:1") == image
    run("skopeo", "copy", "--all", "--src-tls-verify=false", f"docker://{app}:1", f"dir:{tmp_path}/dir")
    run("skopeo", "copy", "--all", f"oci:{tmp_path}/layout:1", f"oci:{tmp_path}/theirs:1")
    assert copy(environment, f"oci-layout://{tmp_path}/theirs:1", "store://theirs:1") == [image]


def test_docker_archives_go_to_docker_and_podman_and_come_back(environment, image, docker, tmp_path):
    path = f"{tmp_path}/app.tar"
    copy(environment, "-p", "linux/arm64", "store://app:1", f"docker-archive://{path}:app:2")
    assert "Loaded image: app:2" in docker.run("load", "-i", path)
    assert docker.run("image", "inspect", "-f", "{{.Architecture}}", "app:2") == "arm64\n"
    with tempfile.TemporaryDirectory(prefix="anyarch-") as short:  # podman refuses long paths
        run(*podman(Path(short), "load", "-q", "-i", path))
        name = "docker.io/library/app:2"
        shown = run(*podman(Path(short), "image", "inspect", "-f", "{{.Architecture}}", name))
    assert shown == "arm64\n"
    saved = f"{tmp_path}/saved.tar"
    docker.run("save", "-o", saved, "app:2")
    run("skopeo", "copy", f"docker-archive:{path}", f"docker-archive:{tmp_path}/theirs.tar:app:3")
    layers = set()
    for archive in (path, saved, f"{tmp_path}/theirs.tar"):
        name = f"oci-layout://{tmp_path}/from:{os.path.basename(archive)}"
        copy(environment, f"docker-archive://{archive}", name)
        config = json.loads(
            run_anyarch("imagetools", "inspect", "--format", "{{json .Image}}", name, environment=environment)
        )
        assert config["architecture"] == "arm64"
        layers.add(tuple(config["rootfs"]["diff_ids"]))
    assert len(layers) == 1


def test_images_go_to_the_engines_and_come_back(environment, image, docker, tmp_path):
    environment |= docker.environment
    copy(environment, "-p", "linux/amd64", "store://app:1", "docker-daemon://app:4")
    assert "app" in docker.run("image", "ls")
    (digest,) = copy(environment, "docker-daemon://app:4", f"oci-layout://{tmp_path}/out:4")
    assert json.loads((tmp_path / "out/index.json").read_text())["manifests"][0]["digest"] == digest
    context = str(tmp_path / "context")
    run_anyarch("build", "-q", "--load", "-t", "app:5", context, environment=environment)
    assert docker.run("image", "inspect", "-f", "{{index .RepoTags 0}}", "app:5") in ("app:4\n", "app:5\n")
    several = ["--platform", "linux/amd64,linux/arm64"]
    done = subprocess.run(
        [sys.executable, "-m", "anyarch", "build", "-q", "--load", *several, "-t", "app:6", context],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "docker exporter does not currently support exporting manifest lists" in done.stderr


RECORDED = """\
#!/bin/sh
# A client of an engine with containerd's image store: what `docker info` of 29.0 answers, and `docker load`.
case "$1" in
info) echo '[["driver-type","io.containerd.snapshotter.v1"]]' ;;
load) cat > "$LOADED" && echo "Loaded image: app:7" ;;
*) exit 1 ;;
esac
"""


def test_an_engine_with_containerds_store_is_given_the_whole_index(environment, image, tmp_path):
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "docker").write_text(RECORDED)
    (programs / "docker").chmod(0o755)
    environment |= {"PATH": f"{programs}:{environment['PATH']}", "LOADED": str(tmp_path / "loaded.tar")}
    several = ("--platform", "linux/amd64,linux/arm64")
    run_anyarch(
        "build", "-q", "--load", *several, "-t", "app:7", str(tmp_path / "context"), environment=environment
    )
    assert skopeo_digest(f"oci-archive:{tmp_path}/loaded.tar:7") == image
    copy(environment, "store://app:1", "docker-daemon://app:8")
    assert skopeo_digest(f"oci-archive:{tmp_path}/loaded.tar:8") == image
    names = run("tar", "-tf", str(tmp_path / "loaded.tar"))
    assert "manifest.json" not in names  # the classic form knows one platform only


def test_several_images_keep_their_names_below_a_prefix(environment, image, registry, tmp_path):
    base = f"{registry.address}/many"
    copy(environment, "store://app:1", f"{base}/one:1")
    copy(environment, "-p", "linux/arm64", "store://app:1", f"{base}/two:2")
    assert len(copy(environment, f"{base}/one:1", f"{base}/two:2", f"{registry.address}/kept/")) == 2
    assert skopeo_digest("--tls-verify=false", f"docker://{registry.address}/kept/one:1") == image
    done = subprocess.run(
        [sys.executable, "-m", "anyarch", "copy", f"{base}/one:1", f"{base}/two:2", f"{base}/three"],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "end the target with /" in done.stderr


def test_a_copy_that_broke_off_moves_only_what_is_missing(environment, image):
    with FakeRegistry() as fake:
        fake.fault("PUT", "/uploads/", nth=3, times=99, status=403)
        target = f"{fake.address}/lib/app:1"
        broken = subprocess.run(
            [sys.executable, "-m", "anyarch", "copy", "store://app:1", target],
            env=environment,
            capture_output=True,
            text=True,
        )
        assert broken.returncode == 1
        assert ("lib/app", "1") not in fake.tags
        had = {digest for _, digest in fake.blobs}
        assert had
        fake.faults.clear()
        fake.clear_log()
        copy(environment, "store://app:1", target)
        assert fake.tags["lib/app", "1"] == image
        assert fake.count("PUT", "/uploads/", status=201) == len(fake.blobs) - len(had)
        fake.clear_log()
        copy(environment, "store://app:1", target)
        assert fake.count("PUT", "/uploads/") == 0


def test_a_docker_engine_pulls_what_is_pushed_and_we_read_what_it_pushes(
    environment, image, docker, registry
):
    name = f"{registry.address}/engine/app"
    copy(environment, "store://app:1", f"{name}:1")
    assert image in docker.run("pull", f"{name}:1")
    assert docker.run("image", "inspect", "-f", "{{.Architecture}}", f"{name}:1") == "amd64\n"
    docker.run("pull", "--platform", "linux/arm64", f"{name}:1")
    docker.run("tag", f"{name}:1", f"{name}:theirs")
    docker.run("push", f"{name}:theirs")
    shown = run_anyarch(
        "imagetools",
        "inspect",
        "--format",
        "{{.Image.architecture}}",
        f"{name}:theirs",
        environment=environment,
    )
    assert shown == "arm64\n"
    # Their manifest joins ours: a schema 2 manifest beside an OCI one.
    run_anyarch(
        *("merge", f"{name}:theirs", "-t", f"{name}:merged", "--push", "--progress", "quiet"),
        environment=environment,
    )
    docker.run("pull", "--platform", "linux/arm64", f"{name}:merged")


def test_buildah_and_podman_pull_a_merged_index(environment, image, registry, tmp_path):
    name = f"{registry.address}/pulled/app"
    for platform in ("linux/amd64", "linux/arm64"):
        copy(environment, "-p", platform, "store://app:1", f"{name}:{platform[-5:]}")
    run_anyarch(
        *("merge", f"{name}:amd64", f"{name}:arm64", "-t", f"{name}:1", "--push", "--progress", "quiet"),
        environment=environment,
    )
    assert skopeo_digest("--tls-verify=false", f"docker://{name}:1") == image
    with tempfile.TemporaryDirectory(prefix="anyarch-") as short:
        place = Path(short)
        run(*buildah(place, "pull", "-q", "--tls-verify=false", "--arch", "arm64", f"docker://{name}:1"))
        run(*podman(place, "pull", "-q", "--tls-verify=false", "--arch", "arm64", f"{name}:1"))
        shown = run(*podman(place, "image", "inspect", "-f", "{{.Architecture}}", f"{name}:1"))
        assert shown == "arm64\n"


def test_containerd_takes_the_whole_index_and_gives_it_back(environment, image, docker, tmp_path):
    address = f"{docker.socket}.d/containerd/containerd.sock"  # the one that dockerd started
    environment |= {"CONTAINERD_ADDRESS": address, "CONTAINERD_NAMESPACE": "anyarch-test"}
    copy(environment, "store://app:1", "containerd://app:9")
    listed = run("ctr", "--namespace", "anyarch-test", "images", "ls", env=environment)
    assert image in listed
    assert "docker.io/library/app:9" in listed
    assert copy(environment, "containerd://app:9", f"oci-layout://{tmp_path}/from-containerd:9") == [image]
