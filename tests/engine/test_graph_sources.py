"""Sources as any client may ask for them: blobs of registries and layouts, files with checksum and signature,
git bundles and signatures."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from http.server import SimpleHTTPRequestHandler
from typing import TYPE_CHECKING, BinaryIO

import pytest

from anyarch.errors import AnyarchError, BlobNotFound, BuildError, DigestMismatch, SignatureInvalid
from anyarch.llb.ops import ActionCopy, SourceOp
from anyarch.llb.source import git as git_source
from anyarch.llb.source import http, oci_layout
from anyarch.llb.state import CopySource, State, scratch
from anyarch.llb.vertex import Output, Vertex
from anyarch.spec import media
from anyarch.spec.digest import Digest
from anyarch.spec.oci import Blob, Descriptor, ImageConfig, Manifest, RootFS, encode
from anyarch.testing.git_server import GitServer, git
from anyarch.testing.graph import GraphBuilder
from anyarch.testing.registry import FakeRegistry
from tests.engine.test_language_sources import answering, serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def solve(tmp_path: Path) -> GraphBuilder:
    return GraphBuilder(tmp_path)


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    with FakeRegistry() as registry:
        yield registry


def source(identifier: str, **attrs: str) -> State:
    """A source op with attributes (`__` in a name is a dot)."""
    named = {name.replace("__", "."): value for name, value in attrs.items()}
    return State(Output(Vertex(SourceOp(identifier, named))))


class Layouts:
    """Implements `LayoutBlobs` by a dict; notes what was asked for."""

    def __init__(self, *blobs: bytes) -> None:
        self.blobs = {str(Digest.of(raw)): raw for raw in blobs}
        self.asked: list[tuple[str, str, str]] = []

    def open(self, session: str, store: str, digest: str) -> BinaryIO:
        self.asked.append((session, store, digest))
        if digest not in self.blobs:
            raise BlobNotFound(f"{digest} is not in {store}")
        return io.BytesIO(self.blobs[digest])

    def check(self, session: str, store: str, digest: str) -> None:
        if digest not in self.blobs:
            raise BlobNotFound(f"{digest} is not in {store}")


# blobs ----------------------------------------------------------------------------------------------------


def test_blob_of_a_registry_is_a_file_with_the_name_mode_and_owner_asked_for(
    solve: GraphBuilder, registry: FakeRegistry
) -> None:
    digest = registry.add_blob("a/b", b"content")
    name = f"docker-image+blob://{registry.address}/a/b@{digest}"
    plain = solve(source(name))
    assert plain.read(digest.hex) == b"content"
    entry = plain.entry(digest.hex)
    assert (entry.mode, entry.uid, entry.gid, entry.mtime_ns) == (0o600, 0, 0, 0)
    named = solve(source(name, http__filename="../x/f", http__perm="0640", http__uid="3", http__gid="0x4"))
    entry = named.entry("f")
    assert (entry.mode, entry.uid, entry.gid) == (0o640, 3, 4)
    assert registry.count("GET", "/blobs/") == 1


def test_blob_is_not_fetched_while_nothing_needs_it(solve: GraphBuilder, registry: FakeRegistry) -> None:
    digest = registry.add_blob("a/b", b"content")
    copied = scratch().file(
        CopySource(
            source(f"docker-image+blob://{registry.address}/a/b@{digest}"), ActionCopy(f"/{digest.hex}", "/f")
        )
    )
    first = solve(copied)
    registry.clear_log()
    (solve.store / "blobs/sha256" / digest.hex).unlink()
    assert solve(copied).layers == first.layers
    assert registry.count() == 0


def test_blob_that_cannot_be_is_refused(solve: GraphBuilder, registry: FakeRegistry) -> None:
    digest = registry.add_blob("a/b", b"content")
    name = f"{registry.address}/a/b@{digest}"
    for state, words in (
        (source("docker-image+blob://busybox"), "invalid reference digest"),
        (source(f"oci-layout+blob://{name}"), "requires store id"),
        (source(f"docker-image+blob://{name}", http__perm="u+x"), "http.perm"),
        (source(f"docker-image+blob://{name}", image__recordtype="odd"), "invalid record type"),
        (source("svn://x"), "unknown source scheme"),
    ):
        with pytest.raises(AnyarchError, match=words):
            solve(state)


def test_blob_of_a_layout_comes_from_the_client(solve: GraphBuilder) -> None:
    layouts = Layouts(b"content")
    digest = Digest.of(b"content")
    wanted = source(f"oci-layout+blob://any@{digest}", oci__session="s", oci__store="st", http__filename="f")
    assert solve(wanted, layout_blobs=layouts).read("f") == b"content"
    assert layouts.asked == [("s", "st", str(digest))]


def test_blob_that_is_not_what_it_is_called_is_refused(solve: GraphBuilder) -> None:
    layouts = Layouts()
    digest = Digest.of(b"content")
    layouts.blobs[str(digest)] = b"other"
    with pytest.raises(DigestMismatch):
        solve(source(f"oci-layout+blob://any@{digest}", oci__store="st"), layout_blobs=layouts)


# images of layouts ----------------------------------------------------------------------------------------


def layer(name: str) -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as archive:
        info = tarfile.TarInfo(name)
        archive.addfile(info)
    return raw.getvalue()


def layout_image(*layers: bytes) -> tuple[Layouts, Digest]:
    diff_ids = tuple(str(Digest.of(raw)) for raw in layers)
    config = encode(ImageConfig(architecture="amd64", os="linux", rootfs=RootFS("layers", diff_ids)))
    manifest = Blob.of(
        media.OCI_MANIFEST,
        encode(
            Manifest(
                schema_version=2,
                media_type=media.OCI_MANIFEST,
                config=Descriptor(media.OCI_CONFIG, str(Digest.of(config)), len(config)),
                layers=tuple(
                    Descriptor(media.OCI_LAYER_TAR, str(Digest.of(raw)), len(raw)) for raw in layers
                ),
            )
        ),
    )
    return Layouts(manifest.raw, config, *layers), manifest.digest


def test_image_of_a_layout_comes_from_the_client_that_has_it(solve: GraphBuilder) -> None:
    layouts, digest = layout_image(layer("a"), layer("b"))
    state = oci_layout(f"app@{digest}", session_id="s", store_id="st")
    assert solve(state, layout_blobs=layouts).paths == ["a", "b"]
    assert {(session, store) for session, store, _ in layouts.asked} == {("s", "st")}
    # What was brought once is here when the client is gone.
    assert solve(state).paths == ["a", "b"]


def test_image_of_a_layout_cut_off_above_a_layer(solve: GraphBuilder) -> None:
    layouts, digest = layout_image(layer("a"), layer("b"))
    state = oci_layout(f"app@{digest}", store_id="st", layer_limit=1)
    assert solve(state, layout_blobs=layouts).paths == ["a"]
    assert str(Digest.of(layer("b"))) not in {asked for _, _, asked in layouts.asked}


def test_image_of_a_layout_that_lacks_a_layer_tells_so(solve: GraphBuilder) -> None:
    layouts, digest = layout_image(layer("a"))
    del layouts.blobs[str(Digest.of(layer("a")))]
    with pytest.raises(BlobNotFound):
        solve(oci_layout(f"app@{digest}", store_id="st"), layout_blobs=layouts)


# files ----------------------------------------------------------------------------------------------------


def test_file_with_a_checksum_is_not_fetched_while_nothing_needs_it(
    solve: GraphBuilder, tmp_path: Path
) -> None:
    with serving(tmp_path / "served") as files:
        url = files.put("f.txt", b"content")
        state = http(url, checksum=str(Digest.of(b"content")), mode=0o644, uid=5)
        copied = scratch().file(CopySource(state, ActionCopy("/f.txt", "/f")))
        assert solve(copied).entry("f").uid == 5
        asked = len(files.requests)
        assert solve(copied).executed == []
        assert len(files.requests) == asked


def test_file_under_a_new_name_is_asked_for_without_a_condition_and_not_sent_again(
    solve: GraphBuilder,
) -> None:
    told: list[tuple[str, str | None]] = []

    class Handler(SimpleHTTPRequestHandler):
        def do_HEAD(self) -> None:
            condition = self.headers.get("If-None-Match")
            told.append((self.command, condition))
            self.send_response(304 if condition == '"same"' else 200)
            self.send_header("ETag", '"same"')
            if condition is None:
                self.send_header("Content-Length", "7")
            self.end_headers()

        def do_GET(self) -> None:
            self.do_HEAD()
            self.wfile.write(b"content")

        def log_message(self, *_: object) -> None:
            """Nobody reads it."""

    with answering(Handler) as address:
        url = f"http://{address}/f"
        assert solve(http(url)).read("f") == b"content"
        for _ in range(2):
            assert solve(http(url, filename="g", mode=0o700)).read("g") == b"content"
        assert solve(http(url)).read("f") == b"content"
    assert told == [("GET", None), ("HEAD", None), ("HEAD", '"same"'), ("HEAD", '"same"')]


def test_file_with_a_wrong_checksum_is_refused(solve: GraphBuilder, tmp_path: Path) -> None:
    with serving(tmp_path / "served") as files:
        url = files.put("f.txt", b"content")
        with pytest.raises(DigestMismatch, match="digest mismatch"):
            solve(http(url, checksum=str(Digest.of(b"other"))))


def test_checksum_may_be_of_another_algorithm(solve: GraphBuilder, tmp_path: Path) -> None:
    import hashlib

    with serving(tmp_path / "served") as files:
        url = files.put("f.txt", b"content")
        good = "sha512:" + hashlib.sha512(b"content").hexdigest()
        assert solve(http(url, checksum=good)).read("f.txt") == b"content"
        with pytest.raises(DigestMismatch):
            solve(http(url, checksum="sha512:" + "0" * 128))


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str, str]]:
    """A home of gpg with a key, its armored public part, and that of a stranger."""
    home = tmp_path_factory.mktemp("gpg")
    home.chmod(0o700)

    def gpg(*arguments: str) -> str:
        argv = ["gpg", "--homedir", str(home), "--batch", "--quiet", "--passphrase", "", *arguments]
        return subprocess.run(argv, capture_output=True, text=True, check=True).stdout

    for name in ("signer", "stranger"):
        gpg("--quick-generate-key", f"{name}@example.com", "ed25519", "sign", "never")
    yield home, gpg("--armor", "--export", "signer@"), gpg("--armor", "--export", "stranger@")
    subprocess.run(["gpgconf", "--homedir", str(home), "--kill", "all"], check=False)


def signature(home: Path, data: bytes) -> str:
    argv = ["gpg", "--homedir", str(home), "--batch", "--quiet", "--armor", "--detach-sign"]
    argv += ["--local-user", "signer@example.com"]
    return subprocess.run(argv, input=data, capture_output=True, check=True).stdout.decode()


def test_file_has_to_be_signed_by_the_key_that_is_named(
    solve: GraphBuilder, tmp_path: Path, keys: tuple[Path, str, str]
) -> None:
    home, key, stranger = keys
    signed = signature(home, b"content")
    with serving(tmp_path / "served") as files:
        url = files.put("f.txt", b"content")
        assert (
            solve(source(url, http__sig__pubkey=key, http__sig__signature=signed)).read("f.txt") == b"content"
        )
        both = source(url, http__sig__pubkey=stranger + key, http__sig__signature=signed)
        assert solve(both).read("f.txt") == b"content"
        for public, text in ((stranger, signed), (key, signature(home, b"other")), ("nothing", signed)):
            with pytest.raises(SignatureInvalid):
                solve(source(url, http__sig__pubkey=public, http__sig__signature=text))
        with pytest.raises(BuildError, match="with a signature"):
            solve(source(url, http__sig__pubkey=key))


# git ------------------------------------------------------------------------------------------------------


@pytest.fixture
def server(tmp_path: Path) -> Iterator[GitServer]:
    with GitServer(tmp_path / "served") as server:
        yield server


def remote(server: GitServer, ref: str = "", **attrs: str) -> State:
    url = f"http://{server.address}/app.git"
    named = {f"git.{name.replace('__', '.')}": value for name, value in attrs.items()}
    return git_source(f"{server.address}/app.git#{ref}", {"git.fullurl": url, **named})


def history(server: GitServer) -> list[str]:
    """Three commits; their ids."""
    return [server.commit("app", {"f": str(number)}) for number in range(3)]


def test_commit_with_its_history_as_one_file(solve: GraphBuilder, server: GitServer, tmp_path: Path) -> None:
    commits = history(server)
    solve(remote(server, "main"))  # which needs no history, so there is none yet
    found = solve(remote(server, "main", checkoutbundle="true"))
    assert found.paths == ["bundle"]
    bundle = tmp_path / "b"
    bundle.write_bytes(found.read("bundle"))
    git(tmp_path, "clone", "--quiet", "--branch", "main", str(bundle), "clone")
    assert git(tmp_path / "clone", "rev-list", "HEAD").split() == commits[::-1]


def test_files_of_a_commit_that_a_bundle_brings(
    solve: GraphBuilder, server: GitServer, registry: FakeRegistry
) -> None:
    commits = history(server)
    raw = solve(remote(server, "main", checkoutbundle="true")).read("bundle")
    digest = registry.add_blob("a/bundle", raw)
    server.requests.clear()
    locator = f"docker-image+blob://{registry.address}/a/bundle@{digest}"
    other = GraphBuilder(solve.store.parent / "other")
    for ref, commit, content in (
        ("main", commits[2], b"2"),
        ("", commits[0], b"0"),
        (commits[1], commits[1], b"1"),
    ):
        assert other(remote(server, ref, bundle=locator, checksum=commit)).read("f") == content
    assert server.requests == []
    with pytest.raises(BuildError, match="not found in bundle"):
        other(remote(server, "", bundle=locator, checksum="1" * 40))
    with pytest.raises(DigestMismatch):
        other(remote(server, "main", bundle=locator, checksum=commits[0]))


def test_bundle_of_a_layout_comes_from_the_client(solve: GraphBuilder, server: GitServer) -> None:
    commits = history(server)
    raw = solve(remote(server, "main", checkoutbundle="true")).read("bundle")
    layouts = Layouts(raw)
    locator = f"oci-layout+blob://st@{Digest.of(raw)}"
    other = GraphBuilder(solve.store.parent / "other", layout_blobs=layouts)
    assert other(remote(server, "main", bundle=locator, checksum=commits[2])).read("f") == b"2"
    assert [store for _, store, _ in layouts.asked] == ["st"]


@pytest.mark.parametrize(
    ("attrs", "words"),
    [
        ({"bundle": "https://x"}, "locator"),
        ({"bundle": "docker-image+blob://a@sha256:" + "0" * 64}, "requires git.checksum"),
        ({"checkoutbundle": "true", "keepgitdir": "true"}, "incompatible with git.keepgitdir"),
        ({"sig__rejectexpired": "true"}, "with a public key"),
    ],
)
def test_git_attributes_that_contradict_are_refused(
    solve: GraphBuilder, server: GitServer, attrs: dict[str, str], words: str
) -> None:
    with pytest.raises(BuildError, match=words):
        solve(remote(server, "main", **attrs))


def signed_repository(server: GitServer, tmp_path: Path, *settings: str) -> None:
    """A signed commit with a signed tag `v1`, an unsigned commit with the tag `v2` on top."""
    work = tmp_path / "work"
    git(tmp_path, "init", "--quiet", str(work))
    (work / "f").write_text("f")
    git(work, "add", "f")
    git(work, *settings, "commit", "--quiet", "-S", "-m", "one")
    git(work, *settings, "tag", "-s", "-m", "version", "v1")
    git(work, "commit", "--quiet", "--allow-empty", "-m", "two")
    git(work, "tag", "-a", "-m", "version", "v2")
    git(tmp_path, "clone", "--quiet", "--bare", str(work), str(server.root / "app.git"))


def check_signatures(solve: GraphBuilder, server: GitServer, key: str, stranger: str) -> None:
    for ref in ("v1", "v1^{}"):
        assert solve(remote(server, ref.removesuffix("^{}"), sig__pubkey=key)).read("f") == b"f"
    assert solve(remote(server, "v1", sig__pubkey=key, sig__requiresignedtag="true")).read("f") == b"f"
    assert solve(remote(server, "v1", sig__pubkey=key, sig__ignoresignedtag="true")).read("f") == b"f"
    refused = (
        remote(server, "v2", sig__pubkey=key),
        remote(server, "main", sig__pubkey=key),
        remote(server, "v1", sig__pubkey=stranger),
        remote(server, "v2", sig__pubkey=key, sig__requiresignedtag="true"),
        remote(server, "main", sig__pubkey=key, sig__requiresignedtag="true"),
    )
    for state in refused:
        with pytest.raises(SignatureInvalid):
            solve(state)


def test_commits_and_tags_signed_with_openpgp(
    solve: GraphBuilder,
    server: GitServer,
    tmp_path: Path,
    keys: tuple[Path, str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    home, key, stranger = keys
    program = tmp_path / "gpg"
    program.write_text(f'#!/bin/sh\nexec gpg --homedir {home} --batch "$@"\n')
    program.chmod(0o755)
    signed_repository(
        server, tmp_path, "-c", "user.signingkey=signer@example.com", "-c", f"gpg.program={program}"
    )
    check_signatures(solve, server, key, stranger)


def test_commits_and_tags_signed_with_ssh(solve: GraphBuilder, server: GitServer, tmp_path: Path) -> None:
    for name in ("signer", "stranger"):
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(tmp_path / name)],
            check=True,
        )
    public = {name: (tmp_path / f"{name}.pub").read_text() for name in ("signer", "stranger")}
    signed_repository(
        server, tmp_path, "-c", "gpg.format=ssh", "-c", f"user.signingkey={tmp_path / 'signer'}"
    )
    check_signatures(solve, server, public["signer"], public["stranger"])
    assert os.path.exists(solve.store)
