"""Questions about a Dockerfile: the answers are BuildKit's.

`golden/requests.json` was recorded from BuildKit's frontend over a fake gateway like ours; left out of its
answers is the graph that read the file. It sorts what is on one line by chance.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from anyarch.errors import DockerfileError, NotSupported
from anyarch.frontend.dockerfile.build import build
from tests.unit.frontend.fakes import FakeGateway
from tests.unit.frontend.test_convert_golden import gateway_of

CASES: list[dict[str, Any]] = json.loads((Path(__file__).parent / "golden/requests.json").read_text("utf-8"))


def ask(gateway: FakeGateway) -> dict[str, bytes]:
    result = asyncio.run(build(gateway))
    assert result.platforms == ()
    return result.metadata


def by_line(item: dict[str, Any]) -> tuple[object, ...]:
    return (item["location"]["ranges"][0]["start"]["line"], str(item))


def sorted_lists(document: dict[str, Any]) -> dict[str, Any]:
    lists = ("warnings", "args", "secrets", "ssh")
    return {
        name: sorted(value, key=by_line) if name in lists and value else value
        for name, value in document.items()
    }


@pytest.mark.parametrize(
    "case", CASES, ids=[f"{case['request'].removeprefix('frontend.')} {case['name']}" for case in CASES]
)
def test_answers_are_buildkits(case: dict[str, Any]) -> None:
    case = {**case, "opts": {**case["opts"], "requestid": case["request"]}}
    answer = ask(gateway_of(case))
    assert sorted_lists(json.loads(answer["result.json"])) == sorted_lists(case["json"])
    assert sorted(answer["result.txt"].decode().splitlines()) == sorted(case["text"].splitlines())
    assert answer.get("result.statuscode", b"").decode() == (case["status"] or "")
    assert answer["version"] == b"1.0.0"


def test_what_can_be_asked_is_listed() -> None:
    answer = ask(FakeGateway("FROM scratch\n", opts={"requestid": "frontend.subrequests.describe"}))
    assert answer["result.txt"].decode() == (
        "NAME                 VERSION DESCRIPTION\n"
        "outline              1.0.0   List all parameters current build target supports\n"
        "targets              1.0.0   List all targets current build supports\n"
        "subrequests.describe 1.0.0   List available subrequest types\n"
    )
    first = json.loads(answer["result.json"])[0]
    assert first["name"] == "frontend.outline"
    assert first["opts"] == [{"name": "target", "description": "Target build stage"}]


def test_other_questions_are_refused() -> None:
    with pytest.raises(NotSupported, match=r"unsupported request frontend\.nope"):
        ask(FakeGateway("FROM scratch\n", opts={"requestid": "frontend.nope"}))


def test_a_check_looks_at_all_stages_unless_one_is_named() -> None:
    text = "FROM busybox AS a\nLABEL a b\nFROM busybox AS b\nLABEL c d\n"

    def lines(**opts: str) -> list[int]:
        answer = ask(FakeGateway(text, opts={"requestid": "frontend.lint", **opts}))
        warnings = json.loads(answer["result.json"])["warnings"]
        return [warning["location"]["ranges"][0]["start"]["line"] for warning in warnings]

    assert lines() == [2, 4]
    assert lines(target="a") == [2]


def test_a_check_knows_what_the_base_image_sets() -> None:
    images = {"busybox": {"Env": ["KNOWN=1"]}}
    text = "FROM busybox\nLABEL a=$KNOWN b=$UNKNOWN\n"
    answer = ask(FakeGateway(text, opts={"requestid": "frontend.lint"}, images=images))
    (warning,) = json.loads(answer["result.json"])["warnings"]
    assert warning["detail"] == "Usage of undefined variable '$UNKNOWN' (did you mean $KNOWN?)"


def test_a_check_says_what_keeps_the_file_from_being_built() -> None:
    answer = ask(FakeGateway("FROM busybix\n", opts={"requestid": "frontend.lint"}, images={"busybox": None}))
    error = json.loads(answer["result.json"])["buildError"]
    assert error["message"].endswith("not found (did you mean busybox?)")
    assert error["location"]["ranges"][0]["start"] == {"line": 1}
    assert answer["result.statuscode"] == b"1"


def test_an_outline_warns_like_a_build() -> None:
    gateway = FakeGateway("FROM busybox\nLABEL a b\n", opts={"requestid": "frontend.outline"})
    ask(gateway)
    assert [warning.short.partition(":")[0] for warning in gateway.warnings] == ["LegacyKeyValueFormat"]
    failing = FakeGateway(
        "# check=error=true\nFROM busybox\nLABEL a b\n", opts={"requestid": "frontend.outline"}
    )
    with pytest.raises(DockerfileError, match="lint violation found for rules: LegacyKeyValueFormat"):
        ask(failing)
