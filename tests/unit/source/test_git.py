"""Git repositories as a source, against real ones served on loopback."""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import stat
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from anyarch.errors import BuildError, Canceled, DigestMismatch, PathNotFound
from anyarch.source.git import GitRepositories, GitSource, Resolved
from anyarch.source.gitcli import GitAuth
from anyarch.testing.git_server import GitServer, git

if TYPE_CHECKING:
    from collections.abc import Iterator


class Lender:
    """Lends nothing, unless told; keeps what was logged and asked."""

    def __init__(self, auth: GitAuth | None = None) -> None:
        self.given = auth or GitAuth()
        self.asked: list[tuple[str, str]] = []
        self.logged = b""

    def auth(self, remote: str, main: str) -> GitAuth:
        self.asked.append((remote, main))
        return self.given

    def bundle(self, name: str) -> Path:
        return Path(name)

    def log(self, text: bytes) -> None:
        self.logged += text


class Client:
    """One build's repositories in a store of its own."""

    def __init__(self, root: Path, lender: Lender | None = None) -> None:
        root.mkdir(exist_ok=True)
        self.root = root
        self.lender = lender or Lender()
        self.cancel = threading.Event()
        self._count = 0
        self.repositories = GitRepositories(root / "git", work_dir=self._work_dir, cancel=self.cancel)

    def _work_dir(self) -> Path:
        self._count += 1
        path = self.root / f"work{self._count}-{threading.get_ident()}"
        path.mkdir()
        return path

    def resolve(self, remote: str, ref: str = "", **more: object) -> Resolved:
        return self.repositories.resolve(GitSource(remote=remote, ref=ref, **more), self.lender)  # type: ignore[arg-type]

    def tree(self, remote: str, ref: str = "", **more: object) -> dict[str, str]:
        """Paths below the checkout with what they hold: text, `-> target`, or `/` of a directory."""
        source = GitSource(remote=remote, ref=ref, **more)  # type: ignore[arg-type]
        resolved = self.repositories.resolve(source, self.lender)
        with self.repositories.checkout(source, resolved, self.lender) as checkout:
            return listing(checkout.directory)


def listing(directory: Path) -> dict[str, str]:
    found = {}
    for path in sorted(directory.rglob("*")):
        name = str(path.relative_to(directory))
        if path.is_symlink():
            found[name] = f"-> {path.readlink()}"
        elif path.is_dir():
            found[name] = "/"
        else:
            found[name] = path.read_bytes().decode("latin-1")
    return found


@pytest.fixture
def server(tmp_path: Path) -> Iterator[GitServer]:
    with GitServer(tmp_path / "served") as server:
        yield server


@pytest.fixture
def client(tmp_path: Path) -> Client:
    return Client(tmp_path / "store")


# refs ---------------------------------------------------------------------------------------------


def test_refs_lead_to_commits(server: GitServer, client: Client) -> None:
    first = server.commit("r", {"a": "1"}, tag="v1")
    second = server.commit("r", {"a": "2"})
    other = server.commit("r", {"a": "3"}, branch="dev/x")
    url = server.url("r")
    tag_object = git(server.work_tree("r"), "rev-parse", "v1")
    assert client.resolve(url) == Resolved("refs/heads/main", second, second)
    assert client.resolve(url, "main") == Resolved("refs/heads/main", second, second)
    assert client.resolve(url, "refs/heads/dev/x") == Resolved("refs/heads/dev/x", other, other)
    assert client.resolve(url, "heads/main") == Resolved("refs/heads/main", second, second)
    assert client.resolve(url, "v1") == Resolved("refs/tags/v1", tag_object, first)
    assert client.resolve(url, first) == Resolved(first, first, first)


def test_a_branch_wins_against_a_tag_of_its_name(server: GitServer, client: Client) -> None:
    server.commit("r", {"a": "1"}, tag="both")
    branch = server.commit("r", {"a": "2"}, branch="side")
    git(server.work_tree("r"), "push", "-q", "origin", "side:refs/heads/both")
    assert client.resolve(server.url("r"), "both").object == branch


@pytest.mark.parametrize("ref", ["nothing", "refs/heads/*", "ain", "HEAD~1", "main^{tree}"])
def test_a_ref_that_is_not_there_is_an_error(server: GitServer, client: Client, ref: str) -> None:
    server.commit("r", {"a": "1"})
    with pytest.raises(BuildError, match="does not contain ref"):
        client.resolve(server.url("r"), ref)


def test_an_option_is_no_ref(server: GitServer, client: Client) -> None:
    with pytest.raises(BuildError, match="invalid git ref"):
        client.resolve(server.url("r"), "--upload-pack=id")
    assert server.requests == []


def test_a_repository_that_is_not_there_is_an_error_that_names_it(server: GitServer, client: Client) -> None:
    with pytest.raises(BuildError, match=r"failed to fetch remote http://.*/nothing\.git"):
        client.resolve(server.url("nothing"))


def test_each_ref_is_asked_for_once_a_build(server: GitServer, client: Client) -> None:
    server.commit("r", {"a": "1"})
    client.resolve(server.url("r"), "main")
    asked = len(server.requests)
    moved = server.commit("r", {"a": "2"})
    assert client.resolve(server.url("r"), "main").commit != moved
    assert len(server.requests) == asked


def test_a_checksum_has_to_be_how_the_commit_begins(server: GitServer, client: Client) -> None:
    commit = server.commit("r", {"a": "1"}, tag="v1")
    tag_object = git(server.work_tree("r"), "rev-parse", "v1")
    url = server.url("r")
    for ref, checksum in (("main", commit), ("main", commit[:7]), ("v1", commit), ("v1", tag_object[:9])):
        assert client.resolve(url, ref, checksum=checksum).commit == commit
    assert client.resolve(url, commit, checksum=commit[:12]).commit == commit
    wrong = "0" * 8
    for ref in ("main", "v1", commit):
        with pytest.raises(DigestMismatch, match=f"expected checksum to match {wrong}, got"):
            client.resolve(url, ref, checksum=wrong)
    with pytest.raises(BuildError, match="expected hex commit hash"):
        client.resolve(url, "main", checksum="main")


def test_fetch_by_commit_does_not_ask_for_the_ref(server: GitServer, client: Client) -> None:
    old = server.commit("r", {"a": "1"})
    server.commit("r", {"a": "2"})
    found = client.resolve(server.url("r"), "main", checksum=old, fetch_by_commit=True)
    assert found == Resolved("refs/heads/main", old, old)
    assert server.requests == []
    assert client.tree(server.url("r"), "main", checksum=old, fetch_by_commit=True) == {"a": "1"}
    with pytest.raises(BuildError, match="fetch-by-commit requires a full commit SHA checksum"):
        client.resolve(server.url("r"), "main", checksum=old[:10], fetch_by_commit=True)
    with pytest.raises(BuildError, match="fetch-by-commit requires a checksum"):
        client.resolve(server.url("r"), fetch_by_commit=True)


# files --------------------------------------------------------------------------------------------


def test_files_links_and_modes_are_those_of_the_commit(server: GitServer, client: Client) -> None:
    tree = server.work_tree("r")
    (tree / "bin").mkdir()
    (tree / "bin/tool").write_text("#!")
    (tree / "bin/tool").chmod(0o755)
    (tree / "link").symlink_to("bin/tool")
    (tree / os.fsdecode(b"n\xff")).write_text("odd")
    server.commit("r", {"plain": "p"})
    source = GitSource(remote=server.url("r"))
    umask = os.umask(0o077)
    try:
        resolved = client.repositories.resolve(source, client.lender)
        with client.repositories.checkout(source, resolved, client.lender) as checkout:
            modes = {
                os.fsencode(path.relative_to(checkout.directory)): stat.filemode(path.lstat().st_mode)
                for path in checkout.directory.rglob("*")
            }
            assert checkout.committed == 1700000000
    finally:
        os.umask(umask)
    assert modes == {
        b"bin": "drwxr-xr-x",
        b"bin/tool": "-rwxr-xr-x",
        b"link": "lrwxrwxrwx",
        b"n\xff": "-rw-r--r--",
        b"plain": "-rw-r--r--",
    }


def test_a_second_checkout_fetches_nothing(server: GitServer, client: Client) -> None:
    commit = server.commit("r", {"a": "1"})
    client.tree(server.url("r"), commit)
    asked = len(server.requests)
    assert client.tree(server.url("r"), commit) == {"a": "1"}
    assert len(server.requests) == asked


def test_only_what_is_needed_is_fetched(server: GitServer, client: Client) -> None:
    old = server.commit("r", {"big": "x" * 1000})
    server.commit("r", {"big": "y"})
    client.tree(server.url("r"))
    (bare,) = (path for path in (client.root / "git").iterdir() if path.is_dir())
    assert subprocess.run(["git", "cat-file", "-e", old], cwd=bare, check=False).returncode != 0
    # History that is asked for later still comes.
    assert client.tree(server.url("r"), old) == {"big": "x" * 1000}


def test_a_branch_that_moves_meanwhile_gives_the_commit_that_was_found(
    server: GitServer, client: Client
) -> None:
    server.commit("r", {"a": "1"})
    source = GitSource(remote=server.url("r"), ref="main")
    resolved = client.repositories.resolve(source, client.lender)
    server.commit("r", {"a": "2"})
    with client.repositories.checkout(source, resolved, client.lender) as checkout:
        assert listing(checkout.directory) == {"a": "1"}


def test_a_commit_that_is_nowhere_is_an_error(server: GitServer, client: Client) -> None:
    server.commit("r", {"a": "1"})
    with pytest.raises(BuildError, match=r"failed to fetch remote|cannot be found"):
        client.tree(server.url("r"), "1" * 40)


def test_servers_that_give_no_single_commits_are_asked_for_all_branches(
    tmp_path: Path, client: Client
) -> None:
    with GitServer(tmp_path / "served", is_old=True) as server:
        old = server.commit("r", {"a": "1"})
        new = server.commit("r", {"a": "2"})
        assert client.tree(server.url("r")) == {"a": "2"}
        assert client.tree(server.url("r"), old) == {"a": "1"}
        assert client.tree(server.url("r"), new) == {"a": "2"}
        with pytest.raises(BuildError, match="cannot be found"):
            client.tree(server.url("r"), "1" * 40)


def test_plain_file_servers_will_do(tmp_path: Path, client: Client) -> None:
    with GitServer(tmp_path / "served") as server:
        commit = server.commit("r", {"a": "1"}, tag="v1")
        git(server.root / "r.git", "update-server-info")

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Nobody reads it."""

    with ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=tmp_path / "served")
    ) as files:
        thread = threading.Thread(target=files.serve_forever, args=(0.05,))
        thread.start()
        try:
            url = f"http://127.0.0.1:{files.server_address[1]}/r.git"
            assert client.tree(url, "main") == {"a": "1"}
            assert client.resolve(url, "v1").commit == commit
        finally:
            files.shutdown()
            thread.join()


def test_branches_and_tags_may_change_into_directories_of_others(server: GitServer, client: Client) -> None:
    server.commit("r", {"a": "1"}, branch="x")
    assert client.tree(server.url("r"), "x") == {"a": "1"}
    git(server.work_tree("r"), "push", "-q", "origin", ":x")
    git(server.work_tree("r"), "checkout", "-q", "-b", "main")
    git(server.work_tree("r"), "branch", "-q", "-D", "x")
    server.commit("r", {"a": "2"}, branch="x/y")
    again = Client(client.root)
    assert again.tree(server.url("r"), "x/y") == {"a": "2"}


def test_only_the_files_of_a_subdirectory_are_laid_out(server: GitServer, client: Client) -> None:
    files = {"a": "1", "sub/b": "2", "sub/deep/c": "3", "subway": "4"}
    server.commit("r", files)
    assert client.tree(server.url("r"), subdir="sub") == {"b": "2", "deep": "/", "deep/c": "3"}
    for subdir in ("a", "nothing", "sub/b/x"):
        with pytest.raises(PathNotFound, match="invalid subdir"):
            client.tree(server.url("r"), subdir=subdir)


def test_a_subdirectory_is_not_reached_through_a_link(server: GitServer, client: Client) -> None:
    (server.work_tree("r") / "etc").symlink_to("/etc")
    server.commit("r", {"a": "1"})
    with pytest.raises(PathNotFound, match="invalid subdir"):
        client.tree(server.url("r"), subdir="etc")


def test_line_ends_are_as_the_repository_says(server: GitServer, client: Client) -> None:
    server.commit("r", {".gitattributes": "*.bat text eol=crlf\n", "x.bat": "a\nb\n", "x.sh": "a\nb\n"})
    tree = client.tree(server.url("r"))
    assert (tree["x.bat"], tree["x.sh"]) == ("a\r\nb\r\n", "a\nb\n")


def test_repositories_of_sha256_ids(server: GitServer, client: Client) -> None:
    tree = server.root / "trees" / "r"
    git(server.root, "init", "-q", "--bare", "--object-format=sha256", str(server.root / "r.git"))
    git(server.root, "init", "-q", "--object-format=sha256", str(tree))
    git(tree, "remote", "add", "origin", str(server.root / "r.git"))
    commit = server.commit("r", {"a": "1"})
    assert len(commit) == 64
    assert client.tree(server.url("r")) == {"a": "1"}
    assert client.tree(server.url("r"), commit, keep_git_dir=True)["a"] == "1"


# submodules ---------------------------------------------------------------------------------------


def add_submodule(server: GitServer, name: str, path: str, url: str, commit: str, **more: str) -> str:
    """A commit of repository `name` with a submodule of any URL."""
    tree = server.work_tree(name)
    section = f'[submodule "{more.pop("module", path)}"]\n\tpath = {path}\n\turl = {url}\n'
    section += "".join(f"\t{key} = {value}\n" for key, value in more.items())
    with (tree / ".gitmodules").open("a") as file:
        file.write(section)
    git(tree, "add", ".gitmodules")
    git(tree, "update-index", "--add", "--cacheinfo", f"160000,{commit},{path}")
    git(tree, "commit", "-q", "-m", "submodule")
    git(tree, "push", "-q", "origin", "main")
    return git(tree, "rev-parse", "HEAD")


def test_submodules_come_with_theirs(server: GitServer, client: Client) -> None:
    leaf = server.commit("libs/leaf", {"leaf.txt": "L"})
    server.commit("libs/leaf", {"leaf.txt": "newer"})
    server.commit("libs/mid", {"mid.txt": "M"})
    mid = add_submodule(server, "libs/mid", "deps/leaf", "../leaf.git", leaf)
    server.commit("r", {"a": "1"})
    add_submodule(server, "r", "vendor/mid", server.url("libs/mid"), mid)
    url = server.url("r")
    tree = client.tree(url)
    assert {name: text for name, text in tree.items() if text != "/" and name != ".gitmodules"} == {
        "a": "1",
        "vendor/mid/.gitmodules": '[submodule "deps/leaf"]\n\tpath = deps/leaf\n\turl = ../leaf.git\n',
        "vendor/mid/deps/leaf/leaf.txt": "L",
        "vendor/mid/mid.txt": "M",
    }
    assert client.tree(url, subdir="vendor/mid/deps/leaf") == {"leaf.txt": "L"}
    assert client.tree(url, subdir="vendor")["mid/deps/leaf/leaf.txt"] == "L"
    without = client.tree(url, submodules=False)
    assert without["vendor/mid"] == "/"
    assert "vendor/mid/mid.txt" not in without


def test_a_submodule_may_be_of_the_same_repository(server: GitServer, client: Client) -> None:
    old = server.commit("r", {"a": "old"})
    server.commit("r", {"a": "new"})
    add_submodule(server, "r", "previous", "../r.git", old)
    tree = client.tree(server.url("r"))
    assert (tree["a"], tree["previous/a"]) == ("new", "old")


def test_a_submodule_may_say_that_it_is_not_wanted(server: GitServer, client: Client) -> None:
    server.commit("r", {"a": "1"})
    add_submodule(server, "r", "m", "ext::sh -c id", "1" * 40, update="none")
    assert client.tree(server.url("r"))["m"] == "/"


@pytest.mark.parametrize(
    "url", ["ext::sh -c id", "file:///etc", "/etc", "-oProxyCommand=id", "fd::17", "ftp://h/x.git"]
)
def test_submodules_are_fetched_by_safe_protocols_only(server: GitServer, client: Client, url: str) -> None:
    server.commit("r", {"a": "1"})
    add_submodule(server, "r", "m", url, "1" * 40)
    with pytest.raises(BuildError, match="URL that is not allowed"):
        client.tree(server.url("r"))


def test_a_submodule_without_a_url_is_an_error(server: GitServer, client: Client) -> None:
    tree = server.work_tree("r")
    server.commit("r", {"a": "1"})
    git(tree, "update-index", "--add", "--cacheinfo", f"160000,{'1' * 40},m")
    git(tree, "commit", "-q", "-m", "link")
    git(tree, "push", "-q", "origin", "main")
    with pytest.raises(BuildError, match="No url found for submodule path 'm'"):
        client.tree(server.url("r"))


def test_a_submodules_name_cannot_lead_out_of_the_git_directory(server: GitServer, client: Client) -> None:
    leaf = server.commit("leaf", {"x": "X"})
    server.commit("r", {"a": "1"})
    add_submodule(server, "r", "m", "../leaf.git", leaf, module="../../../evil")
    with pytest.raises(BuildError, match="submodule name"):
        client.tree(server.url("r"), keep_git_dir=True)
    assert client.tree(server.url("r"))["m/x"] == "X"  # where no git directory is kept it does not matter


def literal_tree(repository: Path, *entries: tuple[str, str, str]) -> str:
    """A tree object of (mode, name, id), however broken."""
    raw = b"".join(f"{mode} {name}\0".encode() + bytes.fromhex(item) for mode, name, item in entries)
    argv = ["git", "hash-object", "-t", "tree", "-w", "--literally", "--stdin"]
    done = subprocess.run(argv, cwd=repository, input=raw, capture_output=True, check=True)
    return done.stdout.decode().strip()


@pytest.mark.parametrize("attack", ["link-and-directory", "dot-git", "dot-dot", "case"])
def test_a_hostile_tree_writes_nothing_outside(
    server: GitServer, client: Client, tmp_path: Path, attack: str
) -> None:
    tree = server.work_tree("r")
    server.commit("r", {"a": "1"})
    (tmp_path / "outside").mkdir()

    def blob(text: str) -> str:
        done = subprocess.run(
            ["git", "hash-object", "-w", "--stdin"],
            cwd=tree,
            input=text.encode(),
            capture_output=True,
            check=True,
        )
        return done.stdout.decode().strip()

    file = blob("pwned")
    inner = literal_tree(tree, ("100644", "owned", file))
    match attack:
        case "link-and-directory":
            link = blob(str(tmp_path / "outside"))
            top = literal_tree(tree, ("120000", "x", link), ("40000", "x", inner))
        case "dot-git":
            hooks = literal_tree(tree, ("100755", "post-checkout", file))
            top = literal_tree(tree, ("40000", ".git", literal_tree(tree, ("40000", "hooks", hooks))))
        case "dot-dot":
            top = literal_tree(tree, ("40000", "..", literal_tree(tree, ("40000", "..", inner))))
        case _:
            top = literal_tree(tree, ("100644", ".GIT", file))
    commit = git(tree, "commit-tree", "-m", "evil", top)
    git(tree, "push", "-q", "--force", "origin", f"{commit}:refs/heads/evil")
    try:
        found = client.tree(server.url("r"), "evil")
    except BuildError:
        found = {}
    assert "owned" not in " ".join(found) or not any(text.startswith("->") for text in found.values())
    assert list((tmp_path / "outside").iterdir()) == []
    assert not list(tmp_path.rglob("owned"))


# what is kept -------------------------------------------------------------------------------------


def copied(client: Client, source: GitSource, target: Path) -> None:
    resolved = client.repositories.resolve(source, client.lender)
    with client.repositories.checkout(source, resolved, client.lender) as checkout:
        subprocess.run(["cp", "-a", f"{checkout.directory}/.", str(target)], check=True)


def test_the_git_directory_that_is_kept_is_sound(server: GitServer, client: Client, tmp_path: Path) -> None:
    server.commit("r", {"a": "0"})
    leaf = server.commit("leaf", {"x": "X"})
    server.commit("r", {"a": "1", "b/c": "2"})
    commit = add_submodule(server, "r", "deps/leaf", "../leaf.git", leaf)
    git(server.work_tree("r"), "tag", "-a", "-m", "v2", "v2")
    git(server.work_tree("r"), "push", "-q", "origin", "v2")
    out = tmp_path / "out"
    out.mkdir()
    copied(client, GitSource(remote=server.url("r"), ref="v2", keep_git_dir=True), out)
    assert git(out, "rev-parse", "HEAD") == commit
    assert git(out, "describe", "--tags") == "v2"
    assert git(out, "status", "--porcelain") == ""
    assert git(out, "log", "--format=%s").splitlines() == ["submodule"]
    assert git(out, "config", "remote.origin.url") == server.url("r")
    assert git(out, "fsck", "--strict") == ""
    assert git(out / "deps/leaf", "rev-parse", "HEAD") == leaf
    assert git(out, "submodule", "status").split()[:2] == [leaf, "deps/leaf"]
    assert not (out / ".git/hooks").exists()
    assert not (out / ".git/logs").exists()


def test_the_git_directory_that_is_kept_is_the_same_bytes_in_every_store(
    server: GitServer, tmp_path: Path
) -> None:
    for number in range(7):
        server.commit("r", {"a": "text " * number * 9, f"f{number}": str(number)})
    url = server.url("r")
    fresh, used = Client(tmp_path / "one"), Client(tmp_path / "two")
    used.tree(url, git(server.work_tree("r"), "rev-parse", "HEAD~5"))
    source = GitSource(remote=url, ref="main", keep_git_dir=True)
    trees = []
    for client, name in ((fresh, "a"), (used, "b")):
        out = tmp_path / name
        out.mkdir()
        copied(client, source, out)
        trees.append(
            {
                str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest()
                for path in out.rglob("*")
                if path.is_file()
            }
        )
    assert trees[0] == trees[1]


def test_keys_tell_apart_what_differs() -> None:
    resolved = Resolved("refs/tags/v1", "1" * 40, "2" * 40)
    variants = [
        GitSource(remote="https://h/r.git"),
        GitSource(remote="https://h/r.git", subdir="a"),
        GitSource(remote="https://h/r.git", keep_git_dir=True),
        GitSource(remote="https://h/other.git", keep_git_dir=True),
        GitSource(remote="https://h/r.git", submodules=False),
        GitSource(remote="https://h/r.git", mtime="checkout"),
    ]
    keys = [source.key(resolved) for source in variants]
    assert len(set(keys)) == len(keys)
    assert GitSource(remote="git@h:r").key(resolved) == keys[0]
    assert GitSource(remote="git@h:r", mtime="commit").key(resolved) == keys[0]


# circumstances ------------------------------------------------------------------------------------


def test_settings_of_the_user_and_the_machine_do_not_count(
    server: GitServer, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.commit("r", {"a": "1", ".gitattributes": "* filter=evil\n"})
    home = tmp_path / "home"
    (home / "hooks").mkdir(parents=True)
    (home / "hooks/post-checkout").write_text(f"#!/bin/sh\ntouch {tmp_path}/hook\n")
    (home / "hooks/post-checkout").chmod(0o755)
    (home / ".gitconfig").write_text(
        f'[url "http://127.0.0.1:9/"]\n\tinsteadOf = {server.url("")[:-4]}\n'
        f'[filter "evil"]\n\tsmudge = touch {tmp_path}/filter\n\trequired = true\n'
        f"[core]\n\thooksPath = {home}/hooks\n"
        f"[credential]\n\thelper = !touch {tmp_path}/helper\n"
    )
    monkeypatch.setenv("HOME", str(home))
    for name, value in (
        ("GIT_DIR", "/nonexistent"),
        ("GIT_CONFIG_GLOBAL", str(home / ".gitconfig")),
        ("GIT_SSH_COMMAND", f"touch {tmp_path}/ssh"),
        ("GIT_ASKPASS", f"touch {tmp_path}/askpass"),
        ("GIT_EXTERNAL_DIFF", f"touch {tmp_path}/diff"),
    ):
        monkeypatch.setenv(name, value)
    assert client.tree(server.url("r"))["a"] == "1"
    assert not {"hook", "filter", "helper", "ssh", "askpass", "diff"} & set(os.listdir(tmp_path))


def test_a_lent_token_opens_a_private_repository(tmp_path: Path) -> None:
    with GitServer(tmp_path / "served", token="t0ken") as server:
        server.commit("r", {"a": "1"})
        url = server.url("r")
        with pytest.raises(BuildError) as caught:
            Client(tmp_path / "one").tree(url)
        assert caught.value.hint is not None
        assert "GIT_AUTH_TOKEN" in caught.value.hint
        lender = Lender(GitAuth("basic eC1hY2Nlc3MtdG9rZW46dDBrZW4=", url))
        assert Client(tmp_path / "two", lender).tree(url) == {"a": "1"}
        kept = [path.read_bytes() for path in (tmp_path / "two").rglob("*") if path.is_file()]
        assert not any(b"t0ken" in text or b"eC1hY2Nlc3M" in text for text in kept)


def test_ssh_uses_what_was_lent_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with GitServer(tmp_path / "served") as server:
        server.commit("r", {"a": "1"})
    fake = tmp_path / "bin" / "ssh"
    fake.parent.mkdir()
    fake.write_text(
        "#!/bin/sh\n"
        f'printf "%s\\n" "$@" > {tmp_path}/arguments\n'
        f"env > {tmp_path}/environment\n"
        f"for last; do :; done\n"
        f'cd {tmp_path}/served && eval "git-upload-pack r.git"\n'
    )
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("SSH_AUTH_SOCK", "/the/users/own")
    lender = Lender(GitAuth(agent="/lent/agent.sock", known_hosts="host ssh-ed25519 AAAA\n"))
    assert Client(tmp_path / "store", lender).tree("git@host:r.git") == {"a": "1"}
    arguments = (tmp_path / "arguments").read_text().splitlines()
    assert arguments[:2] == ["-F", "/dev/null"]
    assert "StrictHostKeyChecking=yes" in arguments
    assert "IdentityFile=none" in arguments
    assert "git@host" in arguments
    environment = (tmp_path / "environment").read_text().splitlines()
    assert "SSH_AUTH_SOCK=/lent/agent.sock" in environment
    assert Client(tmp_path / "other").tree("ssh://git@host/r.git") == {"a": "1"}
    arguments = (tmp_path / "arguments").read_text().splitlines()
    assert "StrictHostKeyChecking=accept-new" in arguments
    assert not any(
        line.startswith("SSH_AUTH_SOCK=") for line in (tmp_path / "environment").read_text().splitlines()
    )


def test_what_a_killed_fetch_left_is_no_obstacle(server: GitServer, client: Client) -> None:
    server.commit("r", {"a": "1"})
    client.tree(server.url("r"))
    (bare,) = (path for path in (client.root / "git").iterdir() if path.is_dir())
    (bare / "shallow.lock").touch()
    (bare / "packed-refs.lock").touch()
    (bare / "refs/anyarch").mkdir(exist_ok=True)
    (bare / "refs/anyarch/x.lock").touch()
    server.commit("r", {"a": "2"})
    assert Client(client.root).tree(server.url("r")) == {"a": "2"}


def test_several_threads_may_want_the_same(server: GitServer, client: Client) -> None:
    commits = [server.commit("r", {"a": str(number)}) for number in range(4)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda commit: client.tree(server.url("r"), commit), commits * 2))
    assert found == [{"a": str(number)} for number in range(4)] * 2


def test_a_repository_that_was_removed_is_fetched_again(server: GitServer, client: Client) -> None:
    server.commit("r", {"a": "1"})
    client.tree(server.url("r"))
    (bare,) = (path for path in (client.root / "git").iterdir() if path.is_dir())
    assert (bare.parent / f"{bare.name}.lock").read_text() == server.url("r")
    shutil.rmtree(bare)
    assert client.tree(server.url("r")) == {"a": "1"}


def test_nothing_is_left_in_the_work_directories(server: GitServer, client: Client) -> None:
    leaf = server.commit("leaf", {"x": "X"})
    server.commit("r", {"a": "1"})
    add_submodule(server, "r", "m", "../leaf.git", leaf)
    client.tree(server.url("r"), keep_git_dir=True)
    with pytest.raises(BuildError):
        client.tree(server.url("r"), "1" * 40)
    assert [path.name for path in client.root.iterdir()] == ["git"]


def test_a_canceled_build_ends_git_and_its_helpers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / "bin" / "ssh"
    fake.parent.mkdir()
    fake.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\nexec sleep 98761\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}:{os.environ['PATH']}")
    client = Client(tmp_path / "store")
    failures: list[BaseException] = []

    def work() -> None:
        try:
            client.tree("git@host:r.git")
        except Canceled as error:
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    while not (tmp_path / "started").exists():
        threading.Event().wait(0.01)
    client.cancel.set()
    thread.join(20)
    assert len(failures) == 1
    sleeping = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            line = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        if b"98761" in line:
            sleeping.append(pid)
    assert sleeping == []


def test_the_commits_time_is_known_without_a_checkout(server: GitServer, client: Client) -> None:
    server.commit("r", {"a": "1"}, time="1600000000 +0200", tag="v1")
    source = GitSource(remote=server.url("r"), ref="v1")
    resolved = client.repositories.resolve(source, client.lender)
    assert client.repositories.time_of(source, resolved, client.lender) == 1600000000
