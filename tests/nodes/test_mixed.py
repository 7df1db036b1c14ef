"""One builder of a node of anyarch and a stock one: they make one image."""

from __future__ import annotations

import json
import os
import shutil
import tarfile

import pytest

from anyarch.testing.debian_registry import DebianRegistry
from anyarch.testing.socket_daemon import SocketDaemon
from tests.interop.peers import peer

pytestmark = [pytest.mark.root, pytest.mark.emulation, pytest.mark.registry]

RECIPE = (
    "FROM busybox\nRUN uname -m > /arch\n"
    "FROM scratch\nARG TARGETARCH\nCOPY --from=0 /arch /\nLABEL a=$TARGETARCH\n"
)


@pytest.fixture
def both(cli, tmp_path, clean_environment):
    """The daemons; the builder `b` has ours for amd64 and the stock one for arm64."""
    flags = ["--oci-worker-binary", peer("runc")]
    emulators = tmp_path / "emulators"  # where BuildKit looks for what its image has
    emulators.mkdir()
    qemu = shutil.which("qemu-aarch64-static")
    assert qemu is not None
    shutil.copy(qemu, emulators / "buildkit-qemu-aarch64")
    environment = {**clean_environment, "PATH": f"{emulators}:{os.environ['PATH']}"}
    stock = SocketDaemon(tmp_path / "stock", argv=[peer("buildkitd")], flags=flags, environment=environment)
    with stock, SocketDaemon(tmp_path / "ours", environment=dict(clean_environment)) as ours:
        for number, (daemon, platform) in enumerate(((ours, "linux/amd64"), (stock, "linux/arm64"))):
            more = ["--append"] if number else []
            words = ("--name", "b", "--driver", "remote", "--platform", platform, daemon.endpoint)
            assert cli("create", *more, *words).status == 0
        (cli.directory / "context" / "Dockerfile").write_text(RECIPE)
        yield ours, stock


COMMON = ("--builder", "b", "--platform", "linux/amd64,linux/arm64")


def test_they_make_one_index_for_a_registry(cli, both, tmp_path):
    with DebianRegistry(tmp_path / "registry") as registry:
        name = f"{registry.address}/app:1"
        answer = cli.build(*COMMON, "-t", name, "--push", "--metadata-file", "m")
        assert answer.status == 0, answer.err
        assert "node b0 builds linux/amd64" in answer.err
        assert "node b1 builds linux/arm64" in answer.err
        index = json.loads(cli("imagetools", "inspect", "--raw", name).out)
        images, attested = index["manifests"][:2], index["manifests"][2:]
        assert [item["platform"]["architecture"] for item in images] == ["amd64", "arm64"]
        subjects = [item["annotations"]["vnd.docker.reference.digest"] for item in attested]
        assert subjects == [item["digest"] for item in images]
        told = json.loads(cli("imagetools", "inspect", name, "--format", "{{json .Provenance}}").out)
        assert {name: sorted(item) for name, item in told.items()} == {
            "linux/amd64": ["SLSA"],
            "linux/arm64": ["SLSA"],
        }
        shown = cli("imagetools", "inspect", name, "--format", "{{json .Image}}").out
        labels = {name: image["config"]["Labels"] for name, image in json.loads(shown).items()}
        assert labels == {"linux/amd64": {"a": "amd64"}, "linux/arm64": {"a": "arm64"}}
        metadata = json.loads((cli.directory / "m").read_text())
        assert {key for key in metadata if "provenance" in key} == {
            "buildx.build.provenance/linux/amd64",
            "buildx.build.provenance/linux/arm64",
        }
        builder, node, _ = metadata["buildx.build.ref"].split("/")
        assert (builder, node) == ("b", "b0")


def test_they_fill_one_directory_and_one_archive(cli, both):
    answer = cli.build(*COMMON, "-o", "out", "-o", "type=oci,dest=archive.tar")
    assert answer.status == 0, answer.err
    for name, machine in (("linux_amd64", "x86_64"), ("linux_arm64", "aarch64")):
        assert (cli.directory / "out" / name / "arch").read_text() == f"{machine}\n"
    with tarfile.open(cli.directory / "archive.tar") as archive:
        found = archive.extractfile("index.json")
        assert found is not None
        assert len(json.load(found)["manifests"]) == 1
    records = cli("--builder", "b", "history", "ls", "--format", "{{.FullRef}} {{.Status}}").out
    assert {line.split("/")[1] for line in records.splitlines()} == {"b0", "b1"}
    assert all(line.endswith(" Completed") for line in records.splitlines())


NEUTRAL = (
    "FROM scratch AS base\nCOPY Dockerfile /shared\n"
    "FROM --platform=linux/amd64 base AS assets\nARG TARGETARCH\nCOPY Dockerfile /assets\n"
    "FROM base\nCOPY --from=assets /assets /assets\n"
)


def test_the_platform_of_a_stage_counts_where_the_daemon_is_of_anyarch(cli, both):
    """A stock one would ignore it in silence."""
    (cli.directory / "context" / "Dockerfile").write_text(NEUTRAL)
    words = ("--builder", "b", "--stage-platform", "-o", "type=cacheonly", "--platform")
    ours = cli.build(*words, "linux/amd64")
    assert ours.status == 0, ours.err
    ignored = cli.build(*words, "linux/arm64")
    assert ignored.status == 1
    assert "--stage-platform is known to daemons of anyarch only" in ignored.err
