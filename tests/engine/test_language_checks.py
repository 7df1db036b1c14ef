"""Build checks during builds, and questions about a Dockerfile in place of one."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from anyarch.engine.request import Output
from anyarch.errors import AnyarchError, BuildError, DockerfileError, NotSupported
from anyarch.solver.events import WarningEvent

if TYPE_CHECKING:
    from pathlib import Path

    from anyarch.testing.builder import Builder, BuiltImage
    from tests.conftest import Bases

TWO = ("linux/amd64", "linux/arm64")


def warnings(image: BuiltImage) -> list[WarningEvent]:
    return [event for event in image.events if isinstance(event, WarningEvent)]


def rules(image: BuiltImage) -> list[tuple[str, int]]:
    return sorted((event.short.partition(":")[0], event.lines[0][0]) for event in warnings(image))


def ask(build: Builder, text: str, call: str, **request: Any) -> dict[str, Any]:
    """The answer, with its JSON decoded."""
    result = build(text, call=call, **request).result
    answer: dict[str, Any] = json.loads(result.metadata["result.json"])
    return {**answer, "text": result.metadata["result.txt"], "metadata": result.metadata}


def test_a_build_warns_once_for_all_platforms_with_the_lines(build: Builder) -> None:
    text = """\
FROM busybox AS Base
LABEL a b
FROM base
COPY $typo x /x
ENV MY_TOKEN=1
CMD run
"""
    image = build(text, platform=TWO, files={"x": "1"})
    assert rules(image) == [
        ("JSONArgsRecommended", 6),
        ("LegacyKeyValueFormat", 2),
        ("SecretsUsedInArgOrEnv", 5),
        ("StageNameCasing", 1),
        ("UndefinedVar", 4),
    ]
    assert image.result.warnings == 5
    undefined = next(event for event in warnings(image) if event.short.startswith("UndefinedVar"))
    assert undefined.short == "UndefinedVar: Usage of undefined variable '$typo' (line 4)"
    assert undefined.filename == "Dockerfile"
    assert undefined.source == text.encode()
    assert undefined.lines == ((4, 4),)
    assert undefined.url.endswith("/undefined-var/")
    assert undefined.detail == ("Variables should be defined before their use",)


def test_what_the_base_image_sets_is_defined(build: Builder) -> None:
    image = build("FROM busybox\nENV MINE=1\nFROM busybox\nLABEL a=$PATH b=$MINE\nWORKDIR /w\n")
    assert rules(image) == [("UndefinedVar", 4)]


def test_files_that_are_ignored_and_copied_are_told(scratch_build: Builder) -> None:
    files = {"kept": "1", "gone": "2", ".dockerignore": "gone\n"}
    image = scratch_build("FROM scratch\nCOPY kept gone* /x/\nCOPY --link . /y\n", files=files)
    assert rules(image) == []
    with pytest.raises(AnyarchError):
        scratch_build("FROM scratch\nCOPY gone /x/\n")
    answer = ask(scratch_build, "FROM scratch\nCOPY gone /x/\n", "lint")
    assert [warning["ruleName"] for warning in answer["warnings"]] == ["CopyIgnoredFile"]


def test_a_base_of_another_platform_is_told(build: Builder, bases: Bases) -> None:
    name = f"{bases.registry}/library/onlyarm"
    push = Output("image", attrs={"name": name, "push": "true"})
    build("FROM scratch\nCOPY a /a\n", platform="linux/arm64", files={"a": "1"}, outputs=(push,))
    image = build("FROM onlyarm\nCOPY a /b\n")
    assert rules(image) == [("InvalidBaseImagePlatform", 1)]
    assert warnings(image)[0].short == (
        'InvalidBaseImagePlatform: Base image onlyarm was pulled with platform "linux/arm64", '
        'expected "linux/amd64" for current build (line 1)'
    )
    assert image.config().architecture == "amd64"

    both = build("FROM onlyarm\nCOPY a /b\n", platform=("linux/amd64", "linux/386"))
    assert rules(both) == [("ArchCheck", 1), ("InvalidBaseImagePlatform", 1)]
    assert [w.short for w in warnings(both) if w.short.startswith("ArchCheck: linux/386: its base")]
    with pytest.raises(BuildError, match="its base image is for linux/arm64"):
        build("FROM onlyarm\nCOPY a /b\n", arch_check="error")


@pytest.mark.parametrize(
    "head", ["# check=skip=LegacyKeyValueFormat\n", "# check=skip=all\n"], ids=["one", "all"]
)
def test_checks_can_be_skipped_in_the_file(scratch_build: Builder, head: str) -> None:
    image = scratch_build(f"{head}FROM scratch\nLABEL a b\nWORKDIR /w\n")
    assert rules(image) == []


def test_checks_can_be_skipped_for_one_instruction(scratch_build: Builder) -> None:
    text = "FROM scratch\n# check=skip=LegacyKeyValueFormat\nLABEL a b\nLABEL c d\nWORKDIR /w\n"
    assert rules(scratch_build(text)) == [("LegacyKeyValueFormat", 4)]


def test_an_argument_replaces_what_the_file_says_of_checks(scratch_build: Builder) -> None:
    text = "# check=skip=all;error=true\nFROM scratch\nLABEL a b\nWORKDIR /w\n"
    image = scratch_build(text, build_args={"BUILDKIT_DOCKERFILE_CHECK": "skip=none"})
    assert rules(image) == [("LegacyKeyValueFormat", 3)]


def test_checks_may_fail_the_build(scratch_build: Builder) -> None:
    text = "# check=error=true\nFROM scratch\nLABEL a b\nWORKDIR x\n"
    with pytest.raises(
        DockerfileError, match="lint violation found for rules: LegacyKeyValueFormat, WorkdirRelativePath"
    ):
        scratch_build(text)
    assert scratch_build("# check=error=true\nFROM scratch\nLABEL a=b\nWORKDIR /x\n").result.warnings == 0


def test_a_check_builds_nothing_and_answers(build: Builder) -> None:
    text = "FROM busybox AS a\nRUN exit 1\nLABEL a b\nFROM busybox AS b\nLABEL c d\n"
    answer = ask(build, text, "lint")
    lines = [warning["location"]["ranges"][0]["start"]["line"] for warning in answer["warnings"]]
    assert lines == [3, 5]
    assert answer["metadata"]["result.statuscode"] == "1"
    assert "   3 | >>> LABEL a b" in answer["text"]
    assert "buildError" not in answer


def test_a_check_finds_what_would_fail(build: Builder) -> None:
    answer = ask(build, "FROM busybox\nLABEL a b\nCOPY --from=9 a b\n", "lint")
    assert answer["buildError"]["message"] == "invalid stage index 9"
    answer = ask(build, "FROM nothing-of-this-name\n", "lint")
    assert answer["buildError"]["location"]["ranges"][0]["start"]["line"] == 1


def test_an_outline_tells_what_a_target_takes(build: Builder) -> None:
    text = """\
# VERSION of the tools
ARG VERSION=1
FROM busybox AS tools
ARG VERSION
RUN --mount=type=secret,id=token,required --mount=type=ssh true
FROM busybox AS unused
ARG OTHER
# app is the program
FROM busybox AS app
# LEVEL of detail
ARG LEVEL=2
COPY --from=tools /bin/busybox /x
"""
    answer = ask(build, text, "outline", build_args={"LEVEL": "3"})
    assert answer["name"] == "app"
    assert answer["description"] == "is the program"
    found = [(item["name"], item.get("value"), item.get("description")) for item in answer["args"]]
    assert found == [("VERSION", "1", "of the tools"), ("LEVEL", "3", "of detail")]
    assert [(item["name"], item["required"]) for item in answer["secrets"]] == [("token", True)]
    assert [item["name"] for item in answer["ssh"]] == ["default"]
    assert answer["text"].startswith("TARGET:      app\nDESCRIPTION: is the program\n")
    assert ask(build, text, "outline", target="unused")["args"][0]["name"] == "OTHER"


def test_targets_are_listed(scratch_build: Builder) -> None:
    text = "# one is first\nFROM scratch AS one\nFROM --platform=$BUILDPLATFORM one\n"
    answer = ask(scratch_build, text, "targets")
    assert [item.get("name") for item in answer["targets"]] == ["one", None]
    assert answer["targets"][1]["default"] is True
    assert answer["text"].splitlines()[1:] == ["one       is first", "(default) "]


def test_questions_may_be_about_a_dockerfile_elsewhere(scratch_build: Builder, tmp_path: Path) -> None:
    from anyarch.testing.git_server import GitServer

    with GitServer(tmp_path / "served") as server:
        server.commit("app", {"Dockerfile": "FROM scratch AS here\n"})
        answer = ask(scratch_build, "", "targets", dockerfile_data=None, context=server.url("app"))
    assert answer["targets"][0]["name"] == "here"


def test_a_question_nobody_knows_is_refused(scratch_build: Builder) -> None:
    with pytest.raises(NotSupported, match=r"unsupported request frontend\.nope"):
        scratch_build("FROM scratch\n", call="nope")
