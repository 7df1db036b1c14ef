"""Against distribution's own registry, and skopeo as the other client of it."""

from __future__ import annotations

import io
import os
import random
import shutil
import socket
import subprocess
import threading

import pytest

from anyarch.errors import AnyarchError, ManifestNotFound, RegistryError
from anyarch.registry.hosts import HostConfig, Hosts
from anyarch.spec import media
from anyarch.spec.digest import Digest
from anyarch.spec.oci import Blob, Descriptor, ImageConfig, Index, Manifest, RootFS, encode
from anyarch.spec.platform import Platform
from anyarch.spec.reference import Reference
from anyarch.testing.debian_registry import DebianRegistry

from ..http.servers import Loopback
from .conftest import pull

pytestmark = pytest.mark.registry

BIG = random.Random(4).randbytes(9 << 20)


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    with DebianRegistry(tmp_path_factory.mktemp("registry")) as registry:
        yield registry


def descriptor_of(raw, media_type=media.OCI_LAYER_TAR):
    return Descriptor(media_type, Digest.of(raw), len(raw))


def push_image(client, ref, layer, *, architecture="amd64", docker=False, mount_from=None):
    config = encode(
        ImageConfig(
            architecture=architecture, os="linux", rootfs=RootFS(diff_ids=(Digest.of(layer),)), history=()
        )
    )
    parts = [
        descriptor_of(config, media.DOCKER_CONFIG if docker else media.OCI_CONFIG),
        descriptor_of(layer, media.DOCKER_LAYER_GZIP if docker else media.OCI_LAYER_TAR),
    ]
    for descriptor, raw in zip(parts, (config, layer), strict=True):
        client.push_blob(ref, descriptor, lambda raw=raw: io.BytesIO(raw), mount_from=mount_from)
    kind = media.DOCKER_MANIFEST if docker else media.OCI_MANIFEST
    manifest = Blob.of(
        kind, encode(Manifest(schema_version=2, media_type=kind, config=parts[0], layers=(parts[1],)))
    )
    client.push_manifest(ref, manifest, tag=ref.tag or None)
    return manifest


@pytest.mark.parametrize("docker", [False, True])
def test_an_image_goes_up_and_comes_down(client, registry, docker):
    ref = Reference.parse(f"{registry.address}/lib/image{int(docker)}:v1")
    manifest = push_image(client, ref, BIG, docker=docker)
    assert client.resolve(ref) == (manifest.digest, manifest.media_type, len(manifest.raw))
    assert client.manifest(ref) == manifest
    assert pull(client, ref, descriptor_of(BIG)) == BIG
    assert client.tags(ref) == ["v1"]


def test_an_index_goes_up_and_comes_down(client, registry):
    ref = Reference.parse(f"{registry.address}/lib/index:v1")
    entries = []
    for architecture in ("amd64", "arm64"):
        manifest = push_image(client, ref.with_tag(""), b"layer", architecture=architecture)
        platform = Platform.parse(f"linux/{architecture}").spec()
        entries.append(manifest.descriptor(platform=platform))
    index = Blob.of(
        media.OCI_INDEX, encode(Index(schema_version=2, media_type=media.OCI_INDEX, manifests=tuple(entries)))
    )
    client.push_manifest(ref, index, tag="v1")
    assert client.manifest(ref) == index
    assert client.tags(ref) == ["v1"]


def test_a_blob_is_mounted_from_another_repository(client, registry):
    raw = random.Random(5).randbytes(100_000)
    client.push_blob(
        Reference.parse(f"{registry.address}/lib/from"), descriptor_of(raw), lambda: io.BytesIO(raw)
    )
    ref = Reference.parse(f"{registry.address}/lib/to")

    def never() -> io.BytesIO:
        raise AssertionError("the bytes were asked for")

    assert not client.has_blob(ref, Digest.of(raw))
    assert client.push_blob(ref, descriptor_of(raw), never, mount_from="lib/from") is False
    assert pull(client, ref, descriptor_of(raw)) == raw


def test_a_manifest_without_its_blobs_is_refused_with_the_reason(client, registry):
    ref = Reference.parse(f"{registry.address}/lib/incomplete:v1")
    document = Manifest(
        schema_version=2,
        media_type=media.OCI_MANIFEST,
        config=descriptor_of(b"none", media.OCI_CONFIG),
        layers=(descriptor_of(b"nothing"),),
    )
    with pytest.raises(RegistryError, match="blob unknown to registry"):
        client.push_manifest(ref, Blob.of(media.OCI_MANIFEST, encode(document)), tag="v1")


def test_a_deleted_manifest_is_gone(client, registry):
    ref = Reference.parse(f"{registry.address}/lib/deleted:v1")
    manifest = push_image(client, ref, b"layer")
    client.delete(ref, manifest.digest)
    with pytest.raises(ManifestNotFound):
        client.resolve(ref)


def breaking_relay(port, after):
    """A relay to `port` that breaks its first connection when `after` bytes went in one direction."""
    is_broken = threading.Event()

    def serve(connection):
        with socket.create_connection(("127.0.0.1", port)) as upstream:
            back = threading.Thread(target=copy, args=(upstream, connection))
            back.start()
            copy(connection, upstream)
            for end in (connection, upstream):
                try:
                    end.shutdown(socket.SHUT_RDWR)
                except OSError:
                    continue
            back.join()

    def copy(source, target):
        passed = 0
        try:
            while data := source.recv(65536):
                passed += len(data)
                if passed > after and not is_broken.is_set():
                    is_broken.set()
                    for end in (source, target):
                        end.shutdown(socket.SHUT_RDWR)
                    return
                target.sendall(data)
        except OSError:
            return

    return Loopback(serve), is_broken


@pytest.mark.parametrize("from_file", [True, False])
def test_an_upload_that_breaks_is_finished(connect, registry, tmp_path, from_file):
    raw = random.Random(from_file).randbytes(8 << 20)
    path = tmp_path / "blob"
    path.write_bytes(raw)
    relay, is_broken = breaking_relay(registry.port, 3 << 20)
    seen: list[int] = []
    with relay:
        ref = Reference.parse(f"127.0.0.1:{relay.port}/lib/broken:v1")
        open_ = (lambda: path.open("rb")) if from_file else (lambda: io.BytesIO(raw))
        client = connect()
        assert client.push_blob(ref, descriptor_of(raw), open_, on_progress=seen.append)
        assert is_broken.is_set()
        client.close()
    direct = Reference.parse(f"{registry.address}/lib/broken:v1")
    assert pull(connect(), direct, descriptor_of(raw)) == raw
    assert sum(seen) == len(raw)


def test_a_download_that_breaks_is_finished(connect, registry):
    client = connect()
    client.push_blob(
        Reference.parse(f"{registry.address}/lib/down"), descriptor_of(BIG), lambda: io.BytesIO(BIG)
    )
    relay, is_broken = breaking_relay(registry.port, 3 << 20)
    seen: list[int] = []
    with relay:
        ref = Reference.parse(f"127.0.0.1:{relay.port}/lib/down")
        assert pull(client, ref, descriptor_of(BIG), on_progress=seen.append) == BIG
        client.close()
    assert is_broken.is_set()
    assert sum(seen) == len(BIG)


def test_a_pull_through_mirror_serves(connect, registry, tmp_path):
    client = connect()
    ref = Reference.parse(f"{registry.address}/lib/proxied:v1")
    manifest = push_image(client, ref, b"layer")
    with DebianRegistry(tmp_path, upstream=f"http://{registry.address}", access_log=True) as mirror:
        mirrored = connect(Hosts({registry.address: HostConfig(mirrors=(mirror.address,))}))
        assert mirrored.manifest(ref) == manifest
        assert pull(mirrored, ref, descriptor_of(b"layer")) == b"layer"
        mirrored.close()
        assert "/v2/lib/proxied/manifests/v1" in mirror.log


@pytest.mark.interop
def test_skopeo_reads_what_we_pushed_and_we_read_what_it_pushed(client, registry, tmp_path):
    assert shutil.which("skopeo"), "skopeo is needed"
    ref = Reference.parse(f"{registry.address}/lib/ours:v1")
    manifest = push_image(client, ref, BIG)
    where = f"dir:{tmp_path}/image"
    skopeo = ["skopeo", "--tmpdir", str(tmp_path), "copy", "--quiet", "--preserve-digests"]
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "XDG_DATA_HOME": str(tmp_path)}
    subprocess.run([*skopeo, "--src-tls-verify=false", f"docker://{ref}", where], check=True, env=env)
    assert (tmp_path / "image" / Digest.of(BIG).hex).read_bytes() == BIG
    theirs = Reference.parse(f"{registry.address}/lib/theirs:v1")
    subprocess.run([*skopeo, "--dest-tls-verify=false", where, f"docker://{theirs}"], check=True, env=env)
    assert client.manifest(theirs) == manifest
    assert pull(client, theirs, descriptor_of(BIG)) == BIG


def test_two_run_side_by_side_and_nothing_stays(tmp_path):
    with DebianRegistry(tmp_path / "a") as one, DebianRegistry(tmp_path / "b") as two:
        assert one.port != two.port
        pids = [one.pid, two.pid]
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_what_was_pushed_outlives_a_restart(client, tmp_path):
    with DebianRegistry(tmp_path) as registry:
        port = registry.port
        ref = Reference.parse(f"{registry.address}/lib/kept:v1")
        manifest = push_image(client, ref, b"layer")
    with DebianRegistry(tmp_path, port):
        assert client.manifest(ref) == manifest


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    with (
        pytest.raises(AnyarchError, match="docker-registry is not installed") as caught,
        DebianRegistry(tmp_path),
    ):
        pass
    assert "apt-get install docker-registry" in caught.value.hint


def test_a_taken_port_is_an_error(tmp_path):
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(AnyarchError, match="did not start") as caught,
    ):
        DebianRegistry(tmp_path, taken.getsockname()[1]).__enter__()
    assert "address already in use" in caught.value.hint
