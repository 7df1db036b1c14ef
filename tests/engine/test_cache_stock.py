"""Caches of stock BuildKit: the keys are those that its daemon writes, and steps are found by them."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import pytest

from anyarch.cache.config import CacheConfig, CacheInput, CacheLayer, CacheRecord, CacheResult
from anyarch.cache.stock import CONTENT, StockKey, match
from anyarch.engine.request import CacheOption, Output
from anyarch.source.stockname import chain_id
from anyarch.spec.oci import Descriptor
from anyarch.testing.builder import Builder
from tests.engine.stock_keys import keys_of

if TYPE_CHECKING:
    from pathlib import Path

    from anyarch.testing.registry import FakeRegistry

BASE = "FROM scratch\nCOPY sh /bin/sh\nENV PATH=/bin:/usr/bin\n"
STEPS = """FROM {base}
ENV A="x<y>&z"
RUN /bin/busybox echo hi > /hi
WORKDIR /w
RUN --mount=type=cache,target=/c /bin/busybox echo 2 > two
RUN --mount=type=tmpfs,target=/t --network=none /bin/busybox echo 3 > three
"""
# What the daemon of August 2026 wrote for these steps (`buildctl build --export-cache type=local,mode=max`).
RECORDS = [
    "sha256:917acbc4067dd4bd5793d7eeb8d9c0de8a33033790cc2d98b6db3e3846172e51",
    "sha256:f6515d8afd8f2d2ce6612a1d4492f88887feb327524d76cfd0f4c19c328711c2",
    "sha256:ef1972d338431cf8a919b2ff613e857cc215544d99b56f060902de0bf3ff38b2",
    "sha256:0cb8617ff758a505df61dd409184b95af989c7308dadb8cfcbcf12fd4740cc9b",
]
# Its base was of these two layers.
DIFF_IDS = ("sha256:" + "1" * 64, "sha256:" + "2" * 64)


def test_the_keys_are_those_of_buildkits_daemon(scratch_build: Builder, remote: FakeRegistry) -> None:
    name = f"{remote.address}/base:1"
    scratch_build(
        BASE, files={"sh": "no program"}, outputs=(Output("image", None, {"name": name, "push": "true"}),)
    )
    source, *steps = keys_of(scratch_build, STEPS.format(base=name))
    assert [key.record() for key in steps] == RECORDS
    image = json.loads(remote.manifests["base", remote.tags["base", "1"]].raw)
    config = json.loads(remote.blobs["base", image["config"]["digest"]])
    text = f"buildkit.source.v0:{chain_id(config['rootfs']['diff_ids'])}"
    assert source.digest == f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def test_chain_ids_are_those_of_the_specification() -> None:
    assert chain_id(DIFF_IDS[:1]) == DIFF_IDS[0]
    both = f"{DIFF_IDS[0]} {DIFF_IDS[1]}".encode()
    assert chain_id(DIFF_IDS) == f"sha256:{hashlib.sha256(both).hexdigest()}"


STAGES = """FROM {base} AS build
RUN mkdir -p /out/sub && echo one > /out/one && echo two > /out/sub/two
FROM {base} AS tools
WORKDIR /w
RUN echo tool > tool
FROM {base}
RUN echo first > /first
COPY --from=build /out /app
COPY --from=build --chown=app:app /out/one /owned/
COPY --from=tools --chmod=755 /w/tool /out* /bin/x/
RUN --mount=from=tools,source=/w,target=/t cat /t/tool > /bound
COPY --link --from=tools /w /linked
RUN echo last > /last
COPY --from=build --chown=7 /out/one /ids/
COPY --from=build --chown=0:9 /out/one /ids0/
"""
_WHOLE = "8a5edab282632443219e051e4ade2d1d5bbc671c781051bf1437897cbdfea0f1"
_OF_W = "d1bb8ca354673cd575d31d952490058c9943aef39d5a9553fb4a21ab7a59a19d"
_OF_ONE = "8e725cd28f1437926892464bc2fb63f2b43d400559c6435aceb335c3b80f3054"
STAGES_RECORDS = {
    "1acdd332b76f6531fbae2f86cf73a7f8278496ae6dc7022f323e4c2ca74c0368": [_OF_W],
    "1e1cb7a51a19617eb13480b2d4d92ab8f80c9a15db3ec252c4df067ab25a8b15": ["", _OF_ONE],
    "20a09dae5e7d4161cad85341f52036951cd5e056395ece4be2b784ea65a9372a": ["", _OF_ONE],
    "5dbfbafede47210a7bd7363461bc885ec7310febe761daffdf666bfdae5970ff": ["", ""],
    "8a310bc5454cf093b17e82c5fc0d966a39c4361c144d73a90c9af4f2985ef1d7": [
        "",
        "99214aa06194d117439fe50d07b337e20406459dfd7dc33755aa1ad6af9f6bb3",
    ],
    "90e57dbe3669e14d25e4891443e76b6a9f44827dd2cd08642bac0128f310bb37": [_WHOLE],
    "9809b713a1f277c4d8471c0b2f919260e9b805b4cebd7bdb2e51647916c8fc40": [_WHOLE],
    "9d2b092eb4fc80597f0c930fbe3b1ac80e99fa40f31c23333a1999e71bed8928": [_WHOLE],
    "b4651785a82ae3cdea4997f2bb160089a7982dc1741fa840cfa60caabd302709": [_WHOLE, _OF_W],
    "c4e6387599c31c59eb15463b7658a43650d57ee951b211122b892480cbdc7041": [_WHOLE],
    "d154ace1524f025df2062a59acf189b432a98f13effd5b491be0aa428f258e29": [
        "",
        "a5bcd92e5ab3b071d95f7c842563c82ee88ccfdda4536ae94d6da4e6d4bece5d",
    ],
    "e8a86982d696ca8268cefa6507aca282d78c43246f1a8a7d5e7d815c4c66e088": ["", _OF_ONE],
    "f6515d8afd8f2d2ce6612a1d4492f88887feb327524d76cfd0f4c19c328711c2": [""],
}
"""What the daemon wrote for these stages: each record, with the selectors of its inputs."""


def test_what_comes_from_other_stages_has_the_keys_of_buildkits_daemon(
    scratch_build: Builder, remote: FakeRegistry
) -> None:
    name = f"{remote.address}/base:1"
    scratch_build(
        "FROM scratch\nCOPY sh /bin/sh\nENV PATH=/bin\n",
        files={"sh": "no program"},
        outputs=(Output("image", None, {"name": name, "push": "true"}),),
    )
    keys = keys_of(scratch_build, STAGES.format(base=name))
    found = {
        key.record().removeprefix("sha256:"): [s.removeprefix("sha256:") for ((_, _, s),) in key.inputs]
        for key in keys
        if key.inputs
    }
    assert found == STAGES_RECORDS


CONTEXT_STEPS = """COPY src/one.txt /f/
COPY src /dir
COPY src/*.txt /wild/
COPY s*/sub /wild2/
COPY link /l1
COPY dlink /l2
COPY dlink/sub /l3
COPY dlink/*.txt /l4/
COPY --exclude=*.txt src /ex1
COPY --exclude=sub/** --exclude=!sub/deep src /ex2/
COPY --exclude=**/*.txt s* /ex3/
COPY --parents src/sub/c.txt src/./other/*.txt /par/
COPY ["tools/tool", "empty", "sp ace/f", "/many/"]
COPY src/sub src/sub/deep src/two.txt /nested/
COPY --chown=5:6 --chmod=600 src/two.txt /own
COPY --link src/a /linked
COPY nothing* empty /none/
COPY src/hard.txt src/void /hv/
COPY sr?/a* /q/
RUN --mount=target=/ctx ["/bin/busybox", "true"]
RUN --mount=target=/ctx,source=src/sub --mount=target=/c2,source=src ["/bin/busybox", "true"]
RUN --mount=target=/ctx,source=dlink/sub ["/bin/busybox", "true"]
RUN --mount=target=/onefile,source=src/one.txt ["/bin/busybox", "true"]
COPY . /all
"""
CONTEXT_RECORDS: list[tuple[str, ...]] = [
    ("1b3d48a19261f22c090e02c878c08077", "e3e62b7c5a3c8e12353bfc22fe055354"),
    ("3b8f2a16f4847e1c8e7f678b5e103158", "031f4a6d2aefea8bf2394f1994ecd749"),
    ("d5f537e96536a8917ae56cc16e891d42", "b409dba2481c8e24662c6afb70f0bc1a"),
    ("139b85dfd310ce5ae404b11527dc94cf", "5f3535d0f5d7142510ebf28bdd768ced"),
    ("1bbcc9e2aab1d2cff2dfde32844cb45e", "e3e62b7c5a3c8e12353bfc22fe055354"),
    ("433ada0ddf87d24045f7b4b812717b6a", "031f4a6d2aefea8bf2394f1994ecd749"),
    ("b1ab3aa6a24b67d7231719a8d6168166", "6c0898bc29402c2bfe26b9db2ac60631"),
    ("c40884b0989bfa992193b740f013ffe7", "b409dba2481c8e24662c6afb70f0bc1a"),
    ("b7ca1373399417edda9e3c0dc13ec894", "71d476cc124f176d92fd30f3ed48300b"),
    ("b64cc97441082333968954b5c8c92e15", "e68fb55a5ab550d47ffa9d82b43e1c4b"),
    ("ffa946c6a6eac0a129232358bca90b0b", "45d5572652331dadc81f898d5f63c9c8"),
    ("8056916775131eb22dc809d8562d11b2", "acb090fc00f839859dd6c94a2bbe89b9"),
    ("44ef39934f9a876e61d2bde46fe0d93f", "72bf66dd30bfa4e84cebf3c78efe88f7"),
    ("39c2085293cb49aee60d56f7d0cd1476", "fad77e2a8117afe6b0878af6022ca8d3"),
    ("ca1f749317767f3d9118ff250b20275e", "412adaa45b9a0225c5245da5085fdb7a"),
    ("b7b3efd38eed6bdfd817bbb65088fa06", "cb55090db387544d5e94911aea59d1b7"),
    ("5dbfbafede47210a7bd7363461bc885e",),
    ("e7d91a592435ac93a75a49fb25dd715d", "1cfd82278aaedb1b7a4f269106ba1f0d"),
    ("b5be35cb44999b34c27a6af856a194fd", "77c2cdb61efa7e92c34a264150e35e28"),
    ("5790dfe4cb75fc9e270f3817fb4c2b11", "304237088f075e90cc26ee4462eb0e5a"),
    ("cd4a5fd6d40de464d75a3a6b124b5e34", "bdf5bf9b7e5792fba308997a2c1ce6ec"),
    ("c16f7d98f393d4666bd59b64e0a6eb39", "031f4a6d2aefea8bf2394f1994ecd749"),
    ("cd4a5fd6d40de464d75a3a6b124b5e34", "6c0898bc29402c2bfe26b9db2ac60631"),
    ("26b27d19ecaaf8a6adb54d00e8356256", "e3e62b7c5a3c8e12353bfc22fe055354"),
    ("4be93e6dab0a2ce34020cb661ba4379d", "bdf5bf9b7e5792fba308997a2c1ce6ec"),
]
"""What the daemon wrote for these steps: the record of each and that of the content it uses (the first half
of their digests)."""


FILES = {
    "src/one.txt": "one",
    "src/two.txt": "two",
    "src/a-b": "a-b",
    "src/sub/c.txt": "c",
    "src/sub/deep/d.bin": "d",
    "src/other/o.txt": "o",
    "src/a/f": "a",
    "tools/tool": "t",
    "sp ace/f": "x",
    "empty": "",
    "src/\u00fc/\U0001f600": "names",
}


def make_context(directory: Path) -> None:
    for name, text in FILES.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o644)
    for path in directory.rglob("*"):
        if path.is_dir():
            path.chmod(0o755)
    (directory / "tools/tool").chmod(0o755)
    (directory / "src/two.txt").chmod(0o4711)
    (directory / "link").symlink_to("src/one.txt")
    (directory / "dlink").symlink_to("src")
    (directory / "src/other/l").symlink_to("../src/sub")
    (directory / "src/hard.txt").hardlink_to(directory / "src/one.txt")
    (directory / "src/void").mkdir()
    (directory / "src/void").chmod(0o1777)


def test_what_comes_from_the_context_has_the_keys_of_buildkits_daemon(
    scratch_build: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_context(scratch_build.context)
    text = f"FROM scratch\nCOPY empty /base\n{CONTEXT_STEPS}"
    keys = keys_of(scratch_build, text)
    found = [
        (
            key.record()[7:39],
            *(at.removeprefix(CONTENT)[7:39] for ((at, _, _),) in key.inputs if at.startswith(CONTENT)),
        )
        for key in keys
        if key.inputs
    ]
    assert found[1:] == CONTEXT_RECORDS
    # Again without reading a file for it: nothing has changed.
    monkeypatch.setattr("anyarch.cache.contents.content_digest", None)
    assert keys_of(scratch_build, text) == keys


def test_files_of_the_context_are_not_hashed_without_a_cache_elsewhere(
    scratch_build: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anyarch.cache.contents.content_digest", None)
    scratch_build("FROM scratch\nCOPY a /\n", files={"a": "x"})


def test_what_is_not_in_the_context_has_no_key(scratch_build: Builder) -> None:
    text = "FROM scratch\nCOPY a /\nCOPY none /\nCOPY a /b\n"
    (scratch_build.context / "a").write_text("x")
    keys = keys_of(scratch_build, text)
    assert len([key for key in keys if key.inputs]) == 1  # and nothing that comes after it


REWRITE = {"rewrite-timestamp": "true", "source-date-epoch": "1000"}


def root_of(layout: Path) -> dict[str, Any]:
    index = json.loads((layout / "index.json").read_bytes())
    digest = index["manifests"][0]["digest"].replace(":", "/")
    found: dict[str, Any] = json.loads((layout / "blobs" / digest).read_bytes())
    return found


def config_of(*records: CacheRecord) -> tuple[CacheConfig, dict[str, Descriptor]]:
    digest = "sha256:" + "b" * 64
    notes = {"containerd.io/uncompressed": "sha256:" + "d" * 64}
    return CacheConfig((CacheLayer(digest, -1),), records), {
        digest: Descriptor("application/x", digest, 1, annotations=notes)
    }


def test_a_record_counts_only_with_the_right_inputs() -> None:
    base, step = StockKey("sha256:base"), StockKey("sha256:step", ((("v0", 0, "sel"),),))
    keys = {"v0": base, "v1": step}
    result = (CacheResult(0),)
    root = CacheRecord(digest=base.record())
    good = CacheRecord(result, digest=step.record(), inputs=((CacheInput("sel", 0),),))
    assert list(match(keys, *config_of(root, good)).results) == ["v1"]
    for other in (
        (CacheRecord(digest="sha256:other"), good),
        (root, CacheRecord(result, digest=step.record(), inputs=((CacheInput("", 0),),))),
        (root, CacheRecord(result, digest=step.record(), inputs=((CacheInput("sel", 7),),))),
        (root, CacheRecord(result, digest=step.record())),
        (root, CacheRecord(digest=step.record(), inputs=((CacheInput("sel", 0),),))),
        (root, CacheRecord(result, digest=step.record(1), inputs=((CacheInput("sel", 0),),))),
    ):
        assert match(keys, *config_of(*other)).results == {}


def cached_as(kind: str, directory: Path, name: str) -> tuple[CacheOption, CacheOption, tuple[Output, ...]]:
    """Where a cache is written and read: in a directory with that mode, or `inline` with the image `name`,
    which is pushed."""
    push = (Output("image", None, {"name": name, "push": "true"}),)
    if kind == "inline":
        return CacheOption("inline"), CacheOption("registry", {"ref": name}), push
    to = CacheOption("local", {"dest": str(directory), "mode": kind})
    return to, CacheOption("local", {"src": str(directory)}), push


@pytest.mark.root
@pytest.mark.registry
@pytest.mark.parametrize("kind", ["max", "inline"])
def test_steps_of_a_stock_cache_are_not_run_again(
    build: Builder, tmp_path: Path, only_stock: None, kind: str, remote: FakeRegistry
) -> None:
    text = "FROM busybox\nRUN echo one > /one\nWORKDIR /w\nENV B=2\nRUN echo $B > two\n"
    to, source, push = cached_as(kind, tmp_path / "cache", f"{remote.address}/app:1")
    first = build(text, cache_to=(to,), outputs=push)
    assert len(first.executed) == 3
    other = Builder(tmp_path / "other")
    second = other(text, cache_from=(source,))
    assert second.executed == []
    assert second.read_text("/w/two") == "2\n"
    if kind != "inline":  # an inline cache is a part of the first image's config
        assert second.result.digest == first.result.digest
    if kind != "inline":
        # Layers of the base are known for what they are, so their files keep their times.
        rewritten = [
            made(
                text,
                cache_from=options,
                root=str(made.directory / "again"),
                outputs=(Output("oci", str(out), {"tar": "false", **REWRITE}),),
            )
            for made, options, out in (
                (build, (), tmp_path / "plain"),
                (other, (source,), tmp_path / "from-cache"),
            )
        ]
        assert [image.executed == [] for image in rewritten] == [False, True]
        manifests = [root_of(tmp_path / name) for name in ("plain", "from-cache")]
        assert manifests[0]["layers"][0] == manifests[1]["layers"][0]
        assert "annotations" not in manifests[1]["layers"][0]
    third = other(text.replace("echo one", "echo 1"), cache_from=(source,))
    assert len(third.executed) == 3


@pytest.mark.root
@pytest.mark.parametrize("mode", ["max", "min"])
def test_copies_from_stages_of_a_stock_cache_are_not_made_again(
    build: Builder, tmp_path: Path, only_stock: None, mode: str
) -> None:
    text = STAGES.format(base="busybox").replace("=app:app", "=1:1")
    to = CacheOption("local", {"dest": str(tmp_path / "cache"), "mode": mode})
    source = CacheOption("local", {"src": str(tmp_path / "cache")})
    first = build(text, cache_to=(to,))
    other = Builder(tmp_path / "other")
    second = other(text, cache_from=(source,))
    assert second.executed == []
    assert second.result.digest == first.result.digest
    # Of what was not found no more is run than without a cache.
    third = other(text.replace("echo one", "echo 1"), cache_from=(source,))
    again = Builder(tmp_path / "again")(text.replace("echo one", "echo 1"))
    assert set(third.executed) <= set(again.executed)
    assert third.read_text("/app/one") == "1\n"


@pytest.mark.parametrize("kind", ["max", "min", "inline"])
def test_a_linked_copy_from_a_stage_that_copies_itself_is_found_in_a_stock_cache(
    scratch_build: Builder, tmp_path: Path, only_stock: None, kind: str, remote: FakeRegistry
) -> None:
    text = (
        "FROM scratch AS other\nCOPY d /other\nFROM scratch AS mid\nCOPY --from=other /other /m\n"
        "FROM scratch\nCOPY a /a\nCOPY --link --from=mid /m /o\n"
    )
    files = {"a": "a", "d/f": "f"}
    to, source, push = cached_as(kind, tmp_path / "cache", f"{remote.address}/app:1")
    first = scratch_build(text, files=files, cache_to=(to,), outputs=push)
    second = Builder(tmp_path / "second")(text, files=files, cache_from=(source,))
    assert second.executed == []
    if kind != "inline":
        assert second.result.digest == first.result.digest
    # Where the stage itself is wanted it is made, and nothing else.
    third = Builder(tmp_path / "third")(text + "COPY --from=mid /m/f /n\n", files=files, cache_from=(source,))
    assert third.read_text("/n") == "f"
    assert not any("LINK" in step or "COPY a" in step for step in third.executed)
    fourth = Builder(tmp_path / "fourth")(text, files={**files, "d/f": "new"}, cache_from=(source,))
    assert fourth.read_text("/o/f") == "new"


@pytest.mark.parametrize("kind", ["max", "min", "inline"])
def test_copies_from_the_context_are_found_in_a_stock_cache(
    scratch_build: Builder, tmp_path: Path, only_stock: None, kind: str, remote: FakeRegistry
) -> None:
    text = (
        "FROM scratch AS other\nCOPY d /other\nCOPY a /other/\n"
        "FROM scratch\nCOPY a /a\nCOPY --exclude=*.o d /d/\n"
        "COPY --link d/f /l/\nCOPY --link --from=other /other /o\n"
    )
    files = {"a": "a", "d/f": "f", "d/f.o": "o"}
    to, source, push = cached_as(kind, tmp_path / "cache", f"{remote.address}/app:1")
    first = scratch_build(text, files=files, cache_to=(to,), outputs=push)
    other = Builder(tmp_path / "other")
    second = other(text, files=files, cache_from=(source,))
    assert second.executed == []
    assert second.read_text("/o/f") == "f"
    if kind != "inline":
        assert second.result.digest == first.result.digest
    third = Builder(tmp_path / "third")(text, files={**files, "d/f": "new"}, cache_from=(source,))
    assert not any("COPY a /a" in step for step in third.executed)
    assert (third.read_text("/d/f"), third.read_text("/l/f"), third.read_text("/o/f")) == ("new",) * 3
