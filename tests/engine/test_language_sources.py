"""Where files come from besides the context: git repositories, URLs, OCI layouts; and what time they have."""

from __future__ import annotations

import functools
import gzip
import io
import os
import tarfile
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, ClassVar

import pytest

from anyarch.engine.request import Output, Secret
from anyarch.errors import (
    AnyarchError,
    BuildError,
    DigestMismatch,
    ManifestNotFound,
    NoMatchingPlatform,
    PathNotFound,
)
from anyarch.spec.digest import Digest
from anyarch.testing.builder import Builder
from anyarch.testing.git_server import GitServer, git

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

TWO = ("linux/amd64", "linux/arm64")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[GitServer]:
    with GitServer(tmp_path / "served") as server:
        yield server


class HeedsNothing(BaseHTTPRequestHandler):
    """Names the version of what it sends, and sends it whatever it is asked; `asked` are the methods."""

    content = b"one"
    asked: ClassVar[list[str]] = []
    knows_head = True

    def do_HEAD(self) -> None:
        self.asked.append(self.command)
        if self.command == "HEAD" and not self.knows_head:
            self.send_error(501)
            return
        self.send_response(200)
        self.send_header("ETag", f'"{self.content.decode()}"')
        self.send_header("Content-Length", str(len(self.content)))
        self.end_headers()

    def do_GET(self) -> None:
        self.do_HEAD()
        self.wfile.write(self.content)

    def log_message(self, *_: object) -> None:
        """Nobody reads it."""


class Files:
    """Files served over HTTP; `requests` are the paths that were asked for."""

    def __init__(self, root: Path, address: str, requests: list[str]) -> None:
        self.root = root
        self.requests = requests
        self._address = address

    def put(self, name: str, data: bytes, *, time: int = 1600000000) -> str:
        """Write a file; its URL."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        os.utime(path, (time, time))
        return f"http://{self._address}/{name}"


@contextmanager
def answering(handler: Callable[..., BaseHTTPRequestHandler]) -> Iterator[str]:
    """A server that answers by `handler`; its address."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def serving(root: Path, *, token: str = "") -> Iterator[Files]:
    requests: list[str] = []

    class Handler(SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            if token and self.headers.get("Authorization") != f"Bearer {token}":
                self.send_error(401)
            else:
                super().do_GET()

        def log_request(self, *_: object) -> None:
            requests.append(self.path)

        def log_message(self, *_: object) -> None:
            """Nobody reads it."""

    root.mkdir(parents=True)
    with answering(functools.partial(Handler, directory=str(root))) as address:
        yield Files(root, address, requests)


@pytest.fixture
def files(tmp_path: Path) -> Iterator[Files]:
    with serving(tmp_path / "files") as served:
        yield served


def tar_of(entries: dict[str, bytes], *, time: int = 0, mode: str = "w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:  # type: ignore[call-overload]
        for name, data in entries.items():
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(data), time
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def test_a_url_whose_etag_is_the_same_is_not_fetched_again_and_gzip_is_for_the_way_only(
    scratch_build: Builder, tmp_path: Path
) -> None:
    told: list[tuple[str, str | None]] = []

    class Handler(SimpleHTTPRequestHandler):
        def do_HEAD(self) -> None:
            told.append(("HEAD", self.headers.get("If-None-Match")))
            self.send_response(304 if self.headers.get("If-None-Match") == self.etag else 200)
            self.send_header("ETag", self.etag)
            self.end_headers()

        def do_GET(self) -> None:
            told.append(("GET", self.headers.get("Accept-Encoding")))
            body = gzip.compress(self.etag.encode())
            self.send_response(200)
            self.send_header("ETag", self.etag)
            self.send_header("Content-Encoding", "gzip")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Nobody reads it."""

        etag = '"one"'

    with answering(Handler) as address:
        dockerfile = f"FROM scratch\nADD http://{address}/f /f\n"
        assert scratch_build(dockerfile).read_text("/f") == '"one"'
        assert scratch_build(dockerfile).read_text("/f") == '"one"'
        assert told == [("GET", "gzip"), ("HEAD", '"one"')]
        Handler.etag = '"two"'
        assert scratch_build(dockerfile).read_text("/f") == '"two"'
        assert told[2:] == [("HEAD", '"one"'), ("GET", "gzip")]


# git ----------------------------------------------------------------------------------------------


def test_add_brings_a_repository_of_a_ref(scratch_build: Builder, server: GitServer) -> None:
    (server.work_tree("app") / "bin").mkdir()
    (server.work_tree("app") / "bin/tool").write_text("#!")
    (server.work_tree("app") / "bin/tool").chmod(0o755)
    server.commit("app", {"a": "1", "docs/x.md": "X"}, tag="v1")
    server.commit("app", {"a": "2"})
    url = server.url("app")
    image = scratch_build(
        f"""
        FROM scratch
        ADD {url} /new
        ADD {url}#v1 /old/
        ADD {url}#v1:docs /docs
        ADD --chown=7:8 --chmod=700 --exclude=docs {url}?tag=v1 /owned
        ADD --link {url}?branch=main&subdir=bin /linked/
        """
    )
    assert (image.read_text("/new/a"), image.read_text("/old/a")) == ("2", "1")
    assert image.listing("/docs") == ["x.md"]
    assert image.listing("/owned") == ["a", "bin", "bin/tool"]
    owned = image.member("/owned/a")
    assert (owned.uid, owned.gid, owned.mode) == (7, 8, 0o700)
    assert image.listing("/linked") == ["tool"]
    tool = image.member("/new/bin/tool")
    assert (tool.mode, tool.uid) == (0o755, 0)
    assert image.path("/new").stat().st_mode & 0o777 == 0o755


def test_a_repository_has_the_times_of_its_commit_so_its_layers_are_the_same_anywhere(
    tmp_path: Path, server: GitServer
) -> None:
    server.commit("app", {"a": "1"}, time="1500000000 +0000")
    text = f"FROM scratch\nADD {server.url('app')} /x\n"
    first, second = (Builder(tmp_path / name)(text) for name in ("one", "two"))
    assert int(first.path("/x/a").stat().st_mtime) == 1500000000
    assert first.manifest().layers == second.manifest().layers


def test_a_ref_that_has_not_moved_is_fetched_once(scratch_build: Builder, server: GitServer) -> None:
    server.commit("app", {"a": "1"})
    text = f"FROM scratch\nADD {server.url('app')} /x\n"
    scratch_build(text, platform=TWO)
    fetched = len(server.requests)
    again = scratch_build(text, platform=TWO)
    assert again.executed == []
    assert len(server.requests) - fetched == 2  # what the ref is now, and that is all
    server.commit("app", {"a": "2"})
    assert scratch_build(text).read_text("/x/a") == "2"


def test_a_commit_is_not_asked_for_again(scratch_build: Builder, server: GitServer) -> None:
    commit = server.commit("app", {"a": "1"})
    text = f"FROM scratch\nADD {server.url('app')}#{commit} /x\n"
    scratch_build(text)
    server.requests.clear()
    assert scratch_build(text, no_cache=True).read_text("/x/a") == "1"
    assert server.requests == []


def test_a_checksum_pins_the_commit(scratch_build: Builder, server: GitServer) -> None:
    commit = server.commit("app", {"a": "1"})
    image = scratch_build(f"FROM scratch\nADD --checksum={commit[:12]} {server.url('app')} /x\n")
    assert image.read_text("/x/a") == "1"
    with pytest.raises(DigestMismatch, match="expected checksum to match 0000"):
        scratch_build(f"FROM scratch\nADD --checksum=0000 {server.url('app')} /x\n")


def test_the_git_directory_is_kept_when_asked_for(build: Builder, server: GitServer, tmp_path: Path) -> None:
    commit = server.commit("app", {"a": "1"}, tag="v1")
    url = server.url("app")
    image = build(
        f"""
        FROM scratch
        ADD --keep-git-dir {url}#v1 /one
        ADD {url}?keep-git-dir=1#v1 /two
        ADD {url}#v1 /three
        """
    )
    for name in ("one", "two"):
        assert git(image.path(name), "rev-parse", "HEAD") == commit
        assert git(image.path(name), "describe", "--tags") == "v1"
        assert git(image.path(name), "status", "--porcelain") == ""
    assert image.listing("/three") == ["a"]


def test_submodules_come_unless_they_are_not_wanted(scratch_build: Builder, server: GitServer) -> None:
    leaf = server.commit("leaf", {"x": "X"})
    tree = server.work_tree("app")
    (tree / ".gitmodules").write_text('[submodule "m"]\n\tpath = m\n\turl = ../leaf.git\n')
    git(tree, "add", ".gitmodules")
    git(tree, "update-index", "--add", "--cacheinfo", f"160000,{leaf},m")
    git(tree, "commit", "-q", "-m", "submodule")
    git(tree, "push", "-q", "origin", "HEAD:main")
    url = server.url("app")
    image = scratch_build(f"FROM scratch\nADD {url} /with\nADD {url}?submodules=false /without\n")
    assert image.listing("/with") == [".gitmodules", "m", "m/x"]
    assert image.listing("/without") == [".gitmodules", "m"]


def test_a_private_repository_opens_to_a_lent_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", "s3cret")
    with GitServer(tmp_path / "private", token="s3cret") as server:
        server.commit("app", {"a": "1"})
        text = f"FROM scratch\nADD {server.url('app')} /x\n"
        with pytest.raises(BuildError) as caught:
            Builder(tmp_path / "one")(text)
        assert "GIT_AUTH_TOKEN" in str(caught.value.hint)
        for name in ("GIT_AUTH_TOKEN", f"GIT_AUTH_TOKEN.{server.address}"):
            builder = Builder(tmp_path / name.replace(":", "_"))
            image = builder(text, secrets=(Secret(name, env="MY_TOKEN"),))
            assert image.read_text("/x/a") == "1"
            found = [path for path in builder.directory.rglob("*") if path.is_file()]
            assert not any(b"s3cret" in path.read_bytes() for path in found)
        token = Secret("GIT_AUTH_TOKEN.example.com", env="MY_TOKEN")
        with pytest.raises(BuildError):
            Builder(tmp_path / "other")(text, secrets=(token,))


def test_a_token_is_not_given_to_submodules_of_other_servers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_TOKEN", "s3cret")
    with (
        GitServer(tmp_path / "a", token="s3cret") as mine,
        GitServer(tmp_path / "b", token="s3cret") as other,
    ):
        leaf = other.commit("leaf", {"x": "X"})
        tree = mine.work_tree("app")
        (tree / ".gitmodules").write_text(f'[submodule "m"]\n\tpath = m\n\turl = {other.url("leaf")}\n')
        git(tree, "add", ".gitmodules")
        git(tree, "update-index", "--add", "--cacheinfo", f"160000,{leaf},m")
        git(tree, "commit", "-q", "-m", "submodule")
        git(tree, "push", "-q", "origin", "HEAD:main")
        text = f"FROM scratch\nADD {mine.url('app')} /x\n"
        with pytest.raises(BuildError, match="could not read Username"):
            Builder(tmp_path / "one")(text, secrets=(Secret("GIT_AUTH_TOKEN", env="MY_TOKEN"),))
        both = tuple(Secret(f"GIT_AUTH_TOKEN.{host.address}", env="MY_TOKEN") for host in (mine, other))
        assert Builder(tmp_path / "two")(text, secrets=both).read_text("/x/m/x") == "X"


@pytest.mark.parametrize("dockerfile", [None, "docker/Other.Dockerfile"], ids=["its own", "named inside"])
def test_a_repository_is_the_context(
    scratch_build: Builder, server: GitServer, dockerfile: str | None
) -> None:
    text = "FROM scratch\nCOPY . /{}/\n"
    server.commit(
        "app",
        {
            "Dockerfile": text.format("own"),
            "docker/Other.Dockerfile": text.format("other"),
            "a": "1",
            "sub/Dockerfile": text.format("sub"),
            "sub/b": "2",
            ".dockerignore": "*\n",  # counts for local contexts only
        },
    )
    image = scratch_build("", dockerfile_data=None, context=server.url("app"), dockerfile=dockerfile)
    directory = "own" if dockerfile is None else "other"
    assert image.read_text(f"/{directory}/a") == "1"
    assert not image.path(f"/{directory}/.git").exists()
    if dockerfile is None:
        inner = scratch_build("", dockerfile_data=None, context=f"{server.url('app')}#main:sub")
        assert inner.listing() == ["sub", "sub/Dockerfile", "sub/b"]


def test_a_dockerfile_of_this_machine_goes_with_a_remote_context(
    scratch_build: Builder, server: GitServer, tmp_path: Path
) -> None:
    server.commit("app", {"a": "1"})
    (tmp_path / "Mine").write_text("FROM scratch\nCOPY a /mine\n")
    context = server.url("app")
    image = scratch_build("", dockerfile_data=None, context=context, dockerfile=str(tmp_path / "Mine"))
    assert image.listing() == ["mine"]
    assert scratch_build("FROM scratch\nCOPY a /piped\n", context=context).listing() == ["piped"]


def test_a_context_keeps_its_git_directory_when_asked_to(scratch_build: Builder, server: GitServer) -> None:
    commit = server.commit("app", {"Dockerfile": "FROM scratch\nCOPY . /\n"})
    image = scratch_build(
        "",
        dockerfile_data=None,
        context=server.url("app"),
        build_args={"BUILDKIT_CONTEXT_KEEP_GIT_DIR": "1"},
    )
    assert image.path("/.git/HEAD").read_text() == f"{commit}\n"


def test_a_repository_is_a_named_context(build: Builder, server: GitServer) -> None:
    server.commit("lib", {"l": "L", "sub/m": "M"})
    url = server.url("lib")
    image = build(
        """
        FROM busybox AS run
        RUN --mount=from=lib,target=/lib cat /lib/l > /seen
        FROM base
        COPY --from=lib sub /sub
        COPY --from=run /seen /seen
        """,
        build_contexts={"lib": url, "base": f"{url}#main:sub"},
    )
    assert image.read_text("/seen") == "L"
    assert image.listing() == ["m", "seen", "sub", "sub/m"]


@pytest.mark.parametrize(
    ("name", "problem"),
    [("nothing", "failed to fetch remote"), ("app.git#nope", "does not contain ref nope")],
)
def test_what_git_cannot_find_is_an_error_with_the_line(
    scratch_build: Builder, server: GitServer, name: str, problem: str
) -> None:
    server.commit("app", {"a": "1"})
    text = f"FROM scratch\nADD http://{server.address}/{name.removesuffix('.git')}"
    text += "" if "#" in name else ".git"
    with pytest.raises(BuildError, match=problem):
        scratch_build(f"{text} /x\n")


# downloads ----------------------------------------------------------------------------------------


def test_add_downloads_a_file_with_mode_and_time(scratch_build: Builder, files: Files) -> None:
    url = files.put("dir/file.txt", b"data", time=1500000000)
    image = scratch_build(
        f"""
        FROM scratch
        ADD {url} /named
        ADD {url} /dir/
        ADD --chmod=644 --chown=3:4 {url}?query=1 /with/
        """
    )
    assert image.listing() == ["dir", "dir/file.txt", "named", "with", "with/file.txt"]
    status = image.path("/named").stat()
    assert (status.st_mode & 0o777, int(status.st_mtime)) == (0o600, 1500000000)
    member = image.member("/with/file.txt")
    assert (member.mode, member.uid, member.gid) == (0o644, 3, 4)


@pytest.mark.parametrize("knows_head", [True, False])
def test_what_is_unchanged_is_not_sent_again_by_servers_that_heed_no_condition(
    scratch_build: Builder, knows_head: bool
) -> None:
    class Handler(HeedsNothing):
        asked: ClassVar[list[str]] = []

    Handler.knows_head = knows_head
    with answering(Handler) as address:
        text = f"FROM scratch\nADD http://{address}/f /f\n"
        assert scratch_build(text).read_text("/f") == "one"
        assert scratch_build(text).read_text("/f") == "one"
        assert Handler.asked == ["GET", "HEAD"] + ["GET"] * (not knows_head)
        Handler.content = b"two"
        assert scratch_build(text).read_text("/f") == "two"
        assert Handler.asked[-2:] == ["HEAD", "GET"]


def test_a_url_without_a_name_gives_a_file_called_unnamed(scratch_build: Builder, files: Files) -> None:
    url = files.put("index.html", b"page").removesuffix("index.html")
    image = scratch_build(f"FROM scratch\nADD {url} /x/\n")
    assert image.listing() == ["x", "x/__unnamed__"]


def test_a_downloads_checksum_is_checked(scratch_build: Builder, files: Files) -> None:
    url = files.put("f", b"data")
    digest = Digest.of(b"data")
    assert scratch_build(f"FROM scratch\nADD --checksum={digest} {url} /f\n").read_text("/f") == "data"
    wrong = Digest.of(b"other")
    with pytest.raises(DigestMismatch, match="digest mismatch"):
        scratch_build(f"FROM scratch\nADD --checksum={wrong} {url} /f\n")


def test_a_file_with_a_known_checksum_is_fetched_once(scratch_build: Builder, files: Files) -> None:
    url = files.put("f", b"data")
    text = f"FROM scratch\nADD --checksum={Digest.of(b'data')} {url} /f\n"
    scratch_build(text)
    files.requests.clear()
    assert scratch_build(text, no_cache=True).read_text("/f") == "data"
    assert files.requests == []


def test_a_download_is_fetched_again_only_when_it_changed(scratch_build: Builder, files: Files) -> None:
    url = files.put("f", b"old")
    text = f"FROM scratch\nADD {url} /f\n"
    scratch_build(text)
    assert scratch_build(text).executed == []
    files.put("f", b"new", time=1700000000)
    assert scratch_build(text).read_text("/f") == "new"


def test_a_lent_token_goes_to_its_host_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("T", "s3cret\n")
    with serving(tmp_path / "private", token="s3cret") as private:
        url = private.put("f", b"data")
        text = f"FROM scratch\nADD {url} /f\n"
        with pytest.raises(BuildError, match="invalid response status 401") as caught:
            Builder(tmp_path / "one")(text)
        assert "HTTP_AUTH_TOKEN_127.0.0.1" in str(caught.value.hint)
        lent = (Secret("HTTP_AUTH_TOKEN_127.0.0.1", env="T"),)
        assert Builder(tmp_path / "two")(text, secrets=lent).read_text("/f") == "data"
        with pytest.raises(BuildError, match="401"):
            Builder(tmp_path / "three")(text, secrets=(Secret("HTTP_AUTH_TOKEN_example.com", env="T"),))


def test_downloaded_archives_are_unpacked_only_when_asked_for(scratch_build: Builder, files: Files) -> None:
    url = files.put("x.tgz", tar_of({"in/a": b"A"}, mode="w:gz"))
    image = scratch_build(f"FROM scratch\nADD {url} /kept/\nADD --unpack {url} /open/\n")
    assert image.listing("/kept") == ["x.tgz"]
    assert image.listing("/open") == ["in", "in/a"]


def test_a_local_archive_stays_packed_when_asked_for(scratch_build: Builder) -> None:
    archive = tar_of({"a": b"A"})
    image = scratch_build(
        "FROM scratch\nADD --unpack=false x.tar /kept/\nADD x.tar /open/\n", files={"x.tar": archive}
    )
    assert image.listing() == ["kept", "kept/x.tar", "open", "open/a"]


def test_an_archive_or_a_dockerfile_at_a_url_is_the_context(scratch_build: Builder, files: Files) -> None:
    text = b"FROM scratch\nCOPY a /a\n"
    url = files.put("ctx.tar.gz", tar_of({"Dockerfile": text, "a": b"A", ".dockerignore": b"a"}, mode="w:gz"))
    assert scratch_build("", dockerfile_data=None, context=url).listing() == ["a"]
    url = files.put("plain", b"FROM scratch\nCOPY context /self\n")
    assert scratch_build("", dockerfile_data=None, context=url).listing() == ["self"]


def test_a_dockerfile_may_be_at_a_url_alone(scratch_build: Builder, files: Files) -> None:
    url = files.put("Dockerfile.dev", b"FROM scratch\nCOPY a /a\n")
    image = scratch_build("", dockerfile_data=None, dockerfile=url, files={"a": "1"})
    assert image.listing() == ["a"]


def test_a_named_context_may_be_a_download(scratch_build: Builder, files: Files) -> None:
    url = files.put("f", b"F")
    image = scratch_build("FROM scratch\nCOPY --from=web context /f\n", build_contexts={"web": url})
    assert image.read_text("/f") == "F"


# OCI layouts --------------------------------------------------------------------------------------


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    """A layout with an image of two platforms."""
    builder = Builder(tmp_path / "layout-builder")
    path = tmp_path / "layout"
    builder(
        "FROM scratch\nENV FROM_LAYOUT=yes\nARG TARGETARCH\nCOPY $TARGETARCH /arch\nWORKDIR /w\n",
        platform=TWO,
        files={"amd64": "amd64", "arm64": "arm64"},
        outputs=(Output("oci", str(path), {"tar": "false", "name": "app:1"}),),
    )
    return path


@pytest.mark.parametrize("suffix", ["", ":1"])
def test_a_layout_stands_in_for_an_image_of_each_platform(
    scratch_build: Builder, layout: Path, suffix: str
) -> None:
    image = scratch_build(
        "FROM base\nCOPY --from=tools /arch /copied\n",
        platform=TWO,
        build_contexts={"base": f"oci-layout://{layout}{suffix}", "tools": f"oci-layout://{layout}"},
    )
    for platform in TWO:
        arch = platform.partition("/")[2]
        assert image.read_text("/arch", platform) == arch
        assert image.read_text("/copied", platform) == arch
        config = image.config(platform).config
        assert "FROM_LAYOUT=yes" in (config.env or ())
        assert config.working_dir == "/w"


def test_a_layout_needs_no_registry_and_may_lie_in_a_tar(
    scratch_build: Builder, layout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANYARCH_REGISTRY_MIRRORS", "docker.io=localhost:9")
    packed = tmp_path / "layout.tar"
    with tarfile.open(packed, "w") as archive:
        archive.add(layout, ".")
    image = scratch_build(
        "FROM base\nCOPY a /a\n", files={"a": "1"}, build_contexts={"base": f"oci-layout://{packed}"}
    )
    assert image.read_text("/arch") == "amd64"


def test_a_layout_that_lacks_the_image_says_what_it_has(
    scratch_build: Builder, layout: Path, tmp_path: Path
) -> None:
    with pytest.raises(ManifestNotFound) as caught:
        scratch_build("FROM base\n", build_contexts={"base": f"oci-layout://{layout}:2"})
    assert "1" in str(caught.value.hint)
    with pytest.raises(ManifestNotFound):
        scratch_build("FROM base\n", build_contexts={"base": f"oci-layout://{tmp_path}/nothing"})
    with pytest.raises(NoMatchingPlatform):
        scratch_build(
            "FROM base\nCOPY a /a\n",
            platform="linux/s390x",
            build_contexts={"base": f"oci-layout://{layout}"},
        )


# SOURCE_DATE_EPOCH --------------------------------------------------------------------------------


def created(image: object) -> str:
    config = image.config()  # type: ignore[attr-defined]
    return str(config.created)


def test_the_context_gives_the_time_of_its_commit(scratch_build: Builder, server: GitServer) -> None:
    text = "FROM scratch\nCOPY . /\n"
    server.commit("app", {"Dockerfile": text, "a": "1"}, time="1500000000 +0100")
    image = scratch_build(
        "", dockerfile_data=None, context=server.url("app"), build_args={"SOURCE_DATE_EPOCH": "context"}
    )
    assert created(image) == "2017-07-14T02:40:00Z"
    assert int(image.path("/a").stat().st_mtime) == 1500000000


def test_a_stage_of_one_download_gives_the_time(
    scratch_build: Builder, server: GitServer, files: Files
) -> None:
    server.commit("app", {"a": "1"}, time="1500000000 +0000")
    archive = files.put("x.tar", tar_of({"a": b"A", "b": b"B"}, time=1400000000), time=1300000000)
    text = "FROM scratch AS when\nADD {} /\nFROM scratch\nCOPY f /f\n"
    arguments = {"SOURCE_DATE_EPOCH": "when"}
    image = scratch_build(text.format(server.url("app")), build_args=arguments, files={"f": "1"})
    assert created(image) == "2017-07-14T02:40:00Z"
    image = scratch_build(text.format(archive), build_args=arguments)
    assert created(image) == "2011-03-13T07:06:40Z"  # Last-Modified wins


def test_an_archive_on_standard_input_gives_the_time_of_its_newest_file(scratch_build: Builder) -> None:
    text = b"FROM scratch\nCOPY a /a\n"
    archive = tar_of({"Dockerfile": text, "a": b"A"}, time=1500000000)
    image = scratch_build(
        "",
        dockerfile_data=None,
        context="-",
        context_tar=io.BytesIO(archive),
        build_args={"SOURCE_DATE_EPOCH": "context"},
    )
    assert created(image) == "2017-07-14T02:40:00Z"


def test_a_default_in_the_dockerfile_is_the_time_of_the_image(scratch_build: Builder) -> None:
    image = scratch_build("ARG SOURCE_DATE_EPOCH=1500000000\nFROM scratch\nCOPY a /a\n", files={"a": "1"})
    assert created(image) == "2017-07-14T02:40:00Z"
    history = image.config().history or ()
    assert {entry.created for entry in history} == {"2017-07-14T02:40:00Z"}


def test_a_directory_has_no_time(scratch_build: Builder) -> None:
    image = scratch_build(
        "FROM scratch\nCOPY a /a\n", files={"a": "1"}, build_args={"SOURCE_DATE_EPOCH": "context"}
    )
    assert not created(image).startswith("1970")
    with pytest.raises(AnyarchError, match="invalid SOURCE_DATE_EPOCH: yesterday"):
        scratch_build("FROM scratch\nCOPY a /a\n", build_args={"SOURCE_DATE_EPOCH": "yesterday"})


def test_a_missing_subdirectory_of_a_repository_is_an_error(
    scratch_build: Builder, server: GitServer
) -> None:
    server.commit("app", {"a": "1"})
    with pytest.raises(PathNotFound, match="invalid subdir nope"):
        scratch_build(f"FROM scratch\nADD {server.url('app')}#main:nope /x\n")
