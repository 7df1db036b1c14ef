"""Caches of stock BuildKit: the keys are those that its daemon writes, and steps are found by them."""

from __future__ import annotations

import asyncio
import hashlib
import json
from typing import TYPE_CHECKING, Any

import pytest

from anyarch.cache import exporter
from anyarch.cache.config import CacheConfig, CacheInput, CacheLayer, CacheRecord, CacheResult
from anyarch.cache.stock import StockKey, chain_id, match
from anyarch.engine.remote_cache import stock_keys_of
from anyarch.engine.request import BuildRequest, CacheOption, Output
from anyarch.engine.solve import prepared
from anyarch.spec.oci import Descriptor
from anyarch.testing.builder import Builder
from anyarch.testing.registry import FakeRegistry
from anyarch.worker.graph import load

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

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


@pytest.fixture
def remote() -> Iterator[FakeRegistry]:
    with FakeRegistry() as registry:
        yield registry


@pytest.fixture
def only_stock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Caches are written with BuildKit's records alone, as its own daemon writes them."""
    write = exporter.write

    def foreign_only(results: Any, **given: Any) -> CacheConfig:
        return write((), **given)

    monkeypatch.setattr(exporter, "write", foreign_only)
    monkeypatch.setattr("anyarch.cache.config.write", foreign_only)


def keys_of(build: Builder, dockerfile: str) -> list[StockKey]:
    async def body() -> list[StockKey]:
        request = BuildRequest(
            context=str(build.context),
            dockerfile_data=dockerfile.encode(),
            platforms=("linux/amd64",),
            root=str(build.store),
        )
        async with prepared(request, lambda event: None) as one:
            graphs = [graph for graph in one.frontend.refs.values() if graph is not None]
            for graph in graphs:
                load(one.solver, one.worker, graph)
            return list((await stock_keys_of(one.solver, one.worker, graphs)).values())

    return asyncio.run(body())


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
        key.record().removeprefix("sha256:"): [s.removeprefix("sha256:") for _, _, s in key.inputs]
        for key in keys
        if key.inputs
    }
    assert found == STAGES_RECORDS


def test_what_depends_on_the_context_has_no_such_key_nor_what_comes_after_it(
    scratch_build: Builder, remote: FakeRegistry
) -> None:
    name = f"{remote.address}/base:1"
    scratch_build(
        BASE, files={"sh": "no program"}, outputs=(Output("image", None, {"name": name, "push": "true"}),)
    )
    for step in ("COPY sh /x", "RUN --mount=target=/ctx true"):
        text = f"FROM {name} AS other\nRUN one\nFROM {name}\nRUN one\n{step}\nRUN after\n"
        assert len(keys_of(scratch_build, text)) == 2


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
    base, step = StockKey("sha256:base"), StockKey("sha256:step", (("v0", 0, "sel"),))
    keys = {"v0": base, "v1": step}
    result = (CacheResult(0),)
    root = CacheRecord(digest=base.record())
    good = CacheRecord(result, digest=step.record(), inputs=((CacheInput("sel", 0),),))
    assert list(match(keys, *config_of(root, good))) == ["v1"]
    for other in (
        (CacheRecord(digest="sha256:other"), good),
        (root, CacheRecord(result, digest=step.record(), inputs=((CacheInput("", 0),),))),
        (root, CacheRecord(result, digest=step.record(), inputs=((CacheInput("sel", 7),),))),
        (root, CacheRecord(result, digest=step.record())),
        (root, CacheRecord(digest=step.record(), inputs=((CacheInput("sel", 0),),))),
        (root, CacheRecord(result, digest=step.record(1), inputs=((CacheInput("sel", 0),),))),
    ):
        assert match(keys, *config_of(*other)) == {}


@pytest.mark.root
@pytest.mark.registry
@pytest.mark.parametrize("kind", ["local", "inline"])
def test_steps_of_a_stock_cache_are_not_run_again(
    build: Builder, tmp_path: Path, only_stock: None, kind: str, remote: FakeRegistry
) -> None:
    text = "FROM busybox\nRUN echo one > /one\nWORKDIR /w\nENV B=2\nRUN echo $B > two\n"
    name = f"{remote.address}/app:1"
    if kind == "local":
        to = CacheOption("local", {"dest": str(tmp_path / "cache"), "mode": "max"})
        source = CacheOption("local", {"src": str(tmp_path / "cache")})
    else:
        to, source = CacheOption("inline"), CacheOption("registry", {"ref": name})
    push = (Output("image", None, {"name": name, "push": "true"}),)
    first = build(text, cache_to=(to,), outputs=push)
    assert len(first.executed) == 3
    other = Builder(tmp_path / "other")
    second = other(text, cache_from=(source,))
    assert second.executed == []
    assert second.read_text("/w/two") == "2\n"
    if kind == "local":  # an inline cache is a part of the first image's config
        assert second.result.digest == first.result.digest
    if kind == "local":
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
    if mode == "min":  # which has no result for the copy that a linked one consists of
        text = text.replace("COPY --link", "COPY")
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
