"""The graph and config of each case equal what BuildKit's own frontend makes of it.

`golden/buildkit.json` was recorded with BuildKit 54b9d6e4a: Dockerfile, options and files given to its
`builder.Build` over a fake gateway like ours; kept are op digests (16 hex digits) and names, what was
solved for reading files, image configs (without times), errors. A case with `names` false differs in step
numbers, where the original counts a base image twice.
"""

from __future__ import annotations

import asyncio
import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from anyarch.errors import AnyarchError
from anyarch.frontend.dockerfile.build import build
from anyarch.spec.platform import Platform
from tests.unit.frontend.fakes import FakeGateway

CASES: list[dict[str, Any]] = json.loads((Path(__file__).parent / "golden/buildkit.json").read_text("utf-8"))
BASES = ["busybox", "alpine", "golang:1.22", "debian:12", "tools"]


def gateway_of(case: dict[str, Any]) -> FakeGateway:
    files = {
        name: {path: text.encode() for path, text in tree.items()}
        for name, tree in case.get("files", {}).items()
    }
    dockerfile = files.setdefault("local://dockerfile", {})
    if "dockerfile" in case:
        dockerfile.setdefault("Dockerfile", case["dockerfile"].encode())
    images = {name: case.get("images", {}).get(name) for name in case.get("bases", BASES)}
    platforms = tuple(Platform.parse(text) for text in case.get("build_platforms", ["linux/amd64"]))
    return FakeGateway(opts=case.get("opts"), images=images, files=files, build_platforms=platforms)


@cache
def lines_of(name: str) -> dict[str, Any]:
    return next(case for case in CASES if case["name"] == name)


@pytest.mark.parametrize("name", [case["name"] for case in CASES if "error" not in case])
def test_graph_and_config_equal_buildkits(name: str) -> None:
    case = lines_of(name)
    gateway = gateway_of(case)
    result = asyncio.run(build(gateway))
    for number, (platform, ops) in enumerate(case["refs"].items()):
        key = platform or result.platforms[number][0]
        definition = result.refs[key]
        found = list(definition.digests) if definition is not None else []
        assert sorted(digest[7:23] for digest in found) == sorted(op[0] for op in ops)
        if definition is None or not case.get("names", True):
            continue
        by_digest = {digest[7:23]: definition.metadata[digest] for digest in found}
        for digest, expected, *flags in ops:
            metadata = by_digest[digest]
            assert metadata.description.get("llb.customname", "") == expected
            assert ("c" in "".join(flags)) == metadata.ignore_cache
            assert ("g" in "".join(flags)) == (metadata.progress_group is not None)
    for platform, config in case["configs"].items():
        found_config = json.loads(result.configs[platform or result.platforms[0][0]])
        for entry in found_config["history"]:
            entry.pop("created", None)  # the record holds no times; test_epoch has them
        assert found_config == config
    solved = {tuple(digest[7:23] for digest in definition.digests) for definition in gateway.solved}
    assert solved == {tuple(digests) for digests in case["internal"]}
    assert sorted(warning.short for warning in gateway.warnings) == case["warnings"]
    assert result.multi_platform == ("" not in case["refs"])


# Ours say more or say it otherwise.
OWN_WORDS = {
    "err bad platform",
    "err chmod sym",
    "err missing image",
    "err bad ref",
    "err expansion",
}


@pytest.mark.parametrize("name", [case["name"] for case in CASES if "error" in case])
def test_errors_are_buildkits(name: str) -> None:
    case = lines_of(name)
    with pytest.raises(AnyarchError) as caught:
        asyncio.run(build(gateway_of(case)))
    if name not in OWN_WORDS:
        assert caught.value.message == case["error"]
