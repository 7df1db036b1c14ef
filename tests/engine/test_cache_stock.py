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


def test_what_depends_on_content_has_no_such_key_nor_what_comes_after_it(
    scratch_build: Builder, remote: FakeRegistry
) -> None:
    name = f"{remote.address}/base:1"
    scratch_build(
        BASE, files={"sh": "no program"}, outputs=(Output("image", None, {"name": name, "push": "true"}),)
    )
    for step in (
        "COPY sh /x",
        "RUN --mount=target=/ctx true",
        "RUN --mount=from=other,target=/o true",
    ):
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
