"""Git repositories, URLs and attributes of files in the keys of BuildKit's caches, for both directions."""

from __future__ import annotations

import hashlib
import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from anyarch.cache.stock import CONTENT
from anyarch.engine.request import CacheOption
from anyarch.testing.builder import Builder
from anyarch.testing.git_server import GitServer, git
from tests.engine.stock_keys import keys_of
from tests.engine.test_language_sources import serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from anyarch.testing.builder import BuiltImage


@pytest.fixture
def server(tmp_path: Path) -> Iterator[GitServer]:
    with GitServer(tmp_path / "served") as server:
        yield server


def make_repository(server: GitServer) -> None:
    tree = server.work_tree("app")
    (tree / "src/sub").mkdir(parents=True)
    (tree / "src/a").write_text("a")
    (tree / "src/sub/b").write_text("b")
    (tree / "src/l").symlink_to("a")
    (tree / "run.sh").write_text("#!/bin/sh\n")
    (tree / "run.sh").chmod(0o755)
    git(tree, "add", "-A")
    git(tree, "commit", "-qm", "one")
    git(tree, "tag", "-a", "v1", "-m", "v1")
    git(tree, "push", "-q", "--tags", "origin", "HEAD:main")


def local(path: Path) -> dict[str, tuple[CacheOption, ...]]:
    return {"cache_from": (CacheOption("local", {"src": str(path)}),)}


def records_of(cache: Path) -> list[dict[str, Any]]:
    def blob(digest: str) -> Any:
        return json.loads((cache / "blobs" / digest.replace(":", "/")).read_bytes())

    (manifest,) = json.loads((cache / "index.json").read_bytes())["manifests"]
    records: list[dict[str, Any]] = blob(blob(manifest["digest"])["config"]["digest"])["records"]
    return records


TEXT = """FROM scratch AS a
ADD {git}#main /m
ADD {git}#v1:src /t/
ADD --keep-git-dir=true {git}#main /k
ADD {url} /x/
ADD --chmod=640 --chown=3:4 {url} /y
ADD --checksum={sum} {url} /z/
FROM scratch
COPY --from=a /m /
"""
SOURCES = {
    "dcd1b1bd7415875dc60e23349d836071",
    "2e556385932a922a63d8e90033a492be",
    "eb8726211490a281e00a66aad68a5e6d",
    "7838333a62525f847020346cf62ef5b2",
    "8ca85d1c6487caea7376b393d238edcb",
}
STEPS = {
    "adccb9802bfef0abe872139813861557": ["028fc612b194666f869dc5714da80cfb"],
    "66071de3d591b377bbd5065f2b581f3f": ["b15e53898e0b19a2e38863bdd632bd4c"],
    "c3b06241c5227c208f2071b9ccbbedd2": None,  # what is in a .git directory differs
    "1813e2215268c74f711e05c3ddb36233": ["8970898d8b6f0b15669c807e810a479d"],
    "208dcfd12ebabd1ea29305608df98b1a": ["8970898d8b6f0b15669c807e810a479d"],
    "8df6e0d619dfb4cd4006753eb93123fd": ["8970898d8b6f0b15669c807e810a479d"],
    "6d27cbc049761ee36e579ca4c40cadbc": ["028fc612b194666f869dc5714da80cfb"],
}
"""What the daemon of August 2026 wrote for these sources: the records of the repository and the URL, and of
each step with the content that it takes (the first half of their digests)."""


def test_what_is_fetched_has_the_keys_and_contents_of_buildkits_daemon(
    scratch_build: Builder, server: GitServer, tmp_path: Path
) -> None:
    make_repository(server)
    with serving(tmp_path / "web") as files:
        url = files.put("file.txt", b"hello\n")
        text = TEXT.format(
            git=server.url("app"),
            url=url,
            sum=f"sha256:{hashlib.sha256(b'hello' + bytes([10])).hexdigest()}",
        )
        scratch_build(
            text, cache_to=(CacheOption("local", {"dest": str(tmp_path / "cache"), "mode": "max"}),)
        )
        keys = keys_of(scratch_build, text)
    assert {key.record()[7:39] for key in keys if not key.inputs} == SOURCES
    assert {key.record()[7:39] for key in keys if key.inputs} == set(STEPS)
    records = records_of(tmp_path / "cache")
    found = {
        record["digest"][7:39]: [
            records[item.get("link", 0)]["digest"][7:39]
            for item in record["inputs"][-1]
            if not item.get("selector")
        ]
        for record in records
        if record["digest"][7:39] in STEPS
    }
    assert {name: found[name] for name, contents in STEPS.items() if contents is not None} == {
        name: contents for name, contents in STEPS.items() if contents is not None
    }


def test_what_is_fetched_is_found_in_a_stock_cache_by_its_name_or_its_content(
    scratch_build: Builder, server: GitServer, tmp_path: Path, only_stock: None
) -> None:
    make_repository(server)
    with serving(tmp_path / "web") as files:
        url = files.put("file.txt", b"hello\n")
        text = f"""FROM scratch AS a
            ADD {server.url("app")}#main:src /src
            ADD {url} /f
            FROM scratch
            COPY --from=a /src/sub /s
            COPY --link --from=a /f /f
        """
        cache = tmp_path / "cache"
        first = scratch_build(text, cache_to=(CacheOption("local", {"dest": str(cache), "mode": "max"}),))
        assert len(first.executed) == 5
        again = Builder(tmp_path / "again")(text, **local(cache))
        assert again.executed == []
        assert again.result.digest == first.result.digest
        assert again.read_text("/s/b") == "b"
        # Another commit and another time, but nothing new in what is used.
        server.commit("app", {"other": "x"})
        files.put("file.txt", b"hello\n", time=1_700_000_000)
        other = Builder(tmp_path / "other")(text, **local(cache))
        assert other.executed == []
        assert other.result.digest == first.result.digest
        server.commit("app", {"src/a": "changed"})
        changed = Builder(tmp_path / "changed")(text, **local(cache))
        assert any("#main:src" in step for step in changed.executed)


def test_a_context_in_a_repository_is_found_in_a_stock_cache(
    tmp_path: Path, server: GitServer, only_stock: None
) -> None:
    server.commit("app", {"Dockerfile": "FROM scratch\nCOPY src /s\nCOPY a* /a/\n", "src/x": "x", "ab": "b"})

    def build(name: str, **given: Any) -> BuiltImage:
        return Builder(tmp_path / name)(None, context=f"{server.url('app')}#main", **given)

    cache = tmp_path / "cache"
    first = build("one", cache_to=(CacheOption("local", {"dest": str(cache)}),))
    assert len(first.executed) == 2
    assert build("two", **local(cache)).executed == []
    server.commit("app", {"unused": "u"})
    assert build("three", **local(cache)).executed == []
    server.commit("app", {"ab": "changed"})
    assert len(build("four", **local(cache)).executed) == 1


ATTRIBUTES = {
    "f": {"user.zoo": b"1\0\xff", "user.abc": b"two"},
    "d": {"user.dir": b"d"},
    "d/g": {"user.g": b""},
}
ATTRIBUTE_STEPS = "COPY f /f\nCOPY d /d\nCOPY d/* /w/\nCOPY --exclude=g d /x\nCOPY hard /hf/\n"
ATTRIBUTE_RECORDS = [
    ("f67fb237304ab278df73764040fede73", "f5bbdf32b5e2f37d067774a015acd275"),
    ("9a966afe1d0cda8d04a87df24896493d", "8c7acd7fadff6be85d30667dde70c4d4"),
    ("2ef140dbf8f92dba7931496c9d31df8f", "de26a743a7488d68f80b84c17750f90f"),
    ("81f9b5b8e561551df2aa30665970b40e", "c8d3cdea2baa3a48c66882154a9fce3c"),
    ("c13352297ab978f8d14abb206d01b89f", "f5bbdf32b5e2f37d067774a015acd275"),
]
"""What the daemon wrote for these steps: records of each and of the content it takes."""


def test_attributes_of_files_of_the_context_count_as_for_buildkits_daemon(scratch_build: Builder) -> None:
    context = scratch_build.context
    scratch_build.write({"f": "one", "d/g": "two", "d/sub/h": "three"})
    for name in ("f", "d/g", "d/sub/h"):
        (context / name).chmod(0o644)
    for name in ("d", "d/sub"):
        (context / name).chmod(0o755)
    (context / "hard").hardlink_to(context / "f")

    def found() -> list[tuple[str, ...]]:
        return [
            (
                key.record()[7:39],
                *(at.removeprefix(CONTENT)[7:39] for ((at, _, _),) in key.inputs if at.startswith(CONTENT)),
            )
            for key in keys_of(scratch_build, f"FROM scratch\n{ATTRIBUTE_STEPS}")
            if key.inputs
        ]

    plain = found()
    for name, pairs in ATTRIBUTES.items():
        for attribute, value in pairs.items():
            os.setxattr(context / name, attribute, value)
    assert found() == ATTRIBUTE_RECORDS
    assert [step for step, _ in plain] == [step for step, _ in ATTRIBUTE_RECORDS]
    assert all(one != two for one, two in zip(plain, ATTRIBUTE_RECORDS, strict=True))
