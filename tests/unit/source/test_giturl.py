"""Which texts are git repositories, and what they say. The cases are those of BuildKit's own tests."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyarch.errors import UsageError
from anyarch.source.giturl import GitRef, is_commit, is_git, parse_git_ref, parse_git_url, redacted

BUILDKIT = "https://github.com/moby/buildkit.git"


@pytest.mark.parametrize(
    "text",
    [
        "https://example.com/",
        "https://example.com/foo",
        "https://example.com/foo.git/",
        "https://example.com/foo.git.bar",
        "https://github.com/moby/buildkit",
        "http://github.com/docker/docker.git:#branch",
        "custom.xyz/moby/buildkit.git",
        "file:///srv/repo.git",
        "ext::sh -c id",
        "httpx://example.com/foo.git",
        "./.git",
        "../x@y:z",
        ".git",
        "directory",
        "",
    ],
)
def test_what_is_no_repository(text: str) -> None:
    assert not is_git(text)
    assert parse_git_ref(text) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://example.com/foo.git", GitRef(remote="https://example.com/foo.git")),
        ("HTTPS://example.com/foo.git", GitRef(remote="https://example.com/foo.git")),
        (
            "https://example.com/foo.git#release/1.2",
            GitRef(remote="https://example.com/foo.git", ref="release/1.2"),
        ),
        ("git://example.com/foo", GitRef(remote="git://example.com/foo")),
        ("github.com/moby/buildkit", GitRef(remote="github.com/moby/buildkit", looks_local=True)),
        (
            "github.com/moby/buildkit#master",
            GitRef(remote="github.com/moby/buildkit", ref="master", looks_local=True),
        ),
        (
            "https://foo:bar@github.com/moby/buildkit.git",
            GitRef(remote="https://foo:bar@github.com/moby/buildkit.git"),
        ),
        ("git@github.com:moby/buildkit", GitRef(remote="git@github.com:moby/buildkit")),
        ("ssh://git@host:22/x", GitRef(remote="ssh://git@host:22/x")),
        (
            "https://github.com/foo/bar.git#baz/qux:quux/quuz",
            GitRef(remote="https://github.com/foo/bar.git", ref="baz/qux", subdir="quux/quuz"),
        ),
        (f"{BUILDKIT}#:myfolder", GitRef(remote=BUILDKIT, subdir="myfolder")),
        (f"{BUILDKIT}#:../../x", GitRef(remote=BUILDKIT, subdir="x")),
        (f"{BUILDKIT}?ref=v1&subdir=/sub", GitRef(remote=BUILDKIT, ref="v1", subdir="/sub")),
        (f"{BUILDKIT}?subdir=/sub#v1", GitRef(remote=BUILDKIT, ref="v1", subdir="/sub")),
        (f"{BUILDKIT}?tag=v1", GitRef(remote=BUILDKIT, ref="refs/tags/v1")),
        (f"{BUILDKIT}?branch=refs/heads/v1", GitRef(remote=BUILDKIT, ref="refs/heads/v1")),
        (f"{BUILDKIT}?ref=a#a", GitRef(remote=BUILDKIT, ref="a")),
        (
            "git@github.com:moby/buildkit.git?subdir=/sub#v1",
            GitRef(remote="git@github.com:moby/buildkit.git", ref="v1", subdir="/sub"),
        ),
        (f"{BUILDKIT}?mtime=commit", GitRef(remote=BUILDKIT, mtime="commit")),
        (f"{BUILDKIT}?keep-git-dir", GitRef(remote=BUILDKIT, keep_git_dir=True)),
        (f"{BUILDKIT}?keep-git-dir=0", GitRef(remote=BUILDKIT, keep_git_dir=False)),
        (f"{BUILDKIT}?submodules=false", GitRef(remote=BUILDKIT, submodules=False)),
        (f"{BUILDKIT}?commit=deadbeef", GitRef(remote=BUILDKIT, checksum="deadbeef")),
        (
            f"{BUILDKIT}?fetch-by-commit&checksum=deadbeef#refs/heads/b",
            GitRef(remote=BUILDKIT, ref="refs/heads/b", checksum="deadbeef", fetch_by_commit=True),
        ),
    ],
)
def test_what_a_text_says(text: str, expected: GitRef) -> None:
    assert parse_git_ref(text) == expected


@pytest.mark.parametrize(
    ("query", "problem"),
    [
        ("ref=v1#v2", 'ref conflicts: "v2" vs "v1"'),
        ("ref=v1&tag=v2", 'ref conflicts: "v1" vs "refs/tags/v2"'),
        ("tag=v1&branch=v1", "branch conflicts with tag"),
        ("subdir=a#x:b", "subdir conflicts"),
        ("mtime=now", "invalid mtime value"),
        ("fetch-by-commit=maybe", "invalid fetch-by-commit value"),
        ("keep-git-dir=2", "invalid keep-git-dir value"),
        ("ref=", 'query "ref" has no value'),
        ("ref=a&ref=b", 'query "ref" has multiple values'),
        ("invalid=123", 'unexpected query "invalid"'),
    ],
)
def test_wrong_options_are_errors(query: str, problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        parse_git_ref(f"{BUILDKIT}?{query}")


def test_the_parts_of_a_url() -> None:
    url = parse_git_url("ssh://root@sub.example:2222/my/path/foo.git#v1:d")
    assert url is not None
    assert (url.scheme, url.host, url.path) == ("ssh", "sub.example:2222", "/my/path/foo.git")
    assert (url.remote, url.ref, url.subdir) == ("ssh://root@sub.example:2222/my/path/foo.git", "v1", "d")
    scp = parse_git_url("nonstandard@example.com:/srv/project.git")
    assert scp is not None
    assert (scp.scheme, scp.host, scp.path) == ("ssh", "example.com", "/srv/project.git")


def test_passwords_are_not_shown() -> None:
    assert redacted("https://me:secret@example.com/x.git") == "https://me:xxxxx@example.com/x.git"
    assert redacted("https://example.com/a:b@c.git") == "https://example.com/a:b@c.git"
    assert redacted("git@example.com:x") == "git@example.com:x"


def test_only_full_object_ids_are_commits() -> None:
    assert is_commit("0" * 40)
    assert is_commit("a" * 64)
    assert not is_commit("A" * 40)
    assert not is_commit("0" * 39)


@given(st.text(alphabet="a:/@.#?=&-git%+ \n\x00é", max_size=40))
def test_any_text_is_answered_or_refused(text: str) -> None:
    try:
        found = parse_git_ref(text)
    except UsageError:
        return
    assert found is None or found.remote
