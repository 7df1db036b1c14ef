"""SOURCE_DATE_EPOCH by number, by context, and by stages that are nothing but a download."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from anyarch.errors import AnyarchError, UsageError
from anyarch.frontend.dockerfile.build import build
from tests.unit.frontend.fakes import FakeGateway

if TYPE_CHECKING:
    from anyarch.frontend.gateway import FrontendResult

STAGE = "FROM scratch AS src\n{}\nFROM busybox\nARG SOURCE_DATE_EPOCH\nRUN x\n"
ARG = "build-arg:SOURCE_DATE_EPOCH"


def run(gateway: FakeGateway) -> FrontendResult:
    return asyncio.run(build(gateway))


def epoch(result: FrontendResult) -> bytes | None:
    return result.metadata.get("source.date.epoch/linux/amd64")


def history(result: FrontendResult) -> str:
    return next(iter(result.configs.values())).decode()


def test_seconds_count_as_they_are() -> None:
    result = run(FakeGateway(STAGE.format(""), opts={ARG: "123"}))
    assert epoch(result) == b"123"
    assert "|1 SOURCE_DATE_EPOCH=123" in history(result)


def test_a_default_in_the_file_counts_when_nothing_is_given() -> None:
    text = "ARG SOURCE_DATE_EPOCH=77\nFROM scratch\nCOPY a b\n"
    assert epoch(run(FakeGateway(text))) == b"77"
    assert epoch(run(FakeGateway(text, opts={ARG: "5"}))) == b"5"


@pytest.mark.parametrize(
    ("line", "identifier"),
    [
        ("ADD https://h/x.tar /", "https://h/x.tar"),
        ("ADD https://h/x.git#v1 /", "git://h/x.git#v1"),
        ("ARG V=2\nADD git://h/r#v$V /", "git://h/r#v2"),
        ("ARG V=2\nARG W\nADD git://h/r#v$W /", "git://h/r#v9"),
    ],
)
def test_a_stage_of_one_download_has_its_time(line: str, identifier: str) -> None:
    gateway = FakeGateway(STAGE.format(line), opts={ARG: "src", "build-arg:W": "9"})
    gateway.times = {identifier: 1700000000}
    result = run(gateway)
    assert epoch(result) == b"1700000000"
    assert "SOURCE_DATE_EPOCH=1700000000" in history(result)
    assert gateway.timed == [(identifier, "[internal] resolve SOURCE_DATE_EPOCH source stage src")]


def test_it_is_asked_for_once_for_all_platforms() -> None:
    opts = {ARG: "src", "platform": "linux/amd64,linux/arm64"}
    gateway = FakeGateway(STAGE.format("ADD git://h/r /"), opts=opts)
    gateway.times = {"git://h/r": 9}
    assert set(run(gateway).metadata.values()) == {b"9"}
    assert len(gateway.timed) == 1


def test_the_main_context_has_the_time_of_its_commit() -> None:
    gateway = FakeGateway(
        opts={"context": "git://h/r", ARG: "context"},
        files={"git://h/r": {"Dockerfile": b"FROM scratch\nCOPY a b\n"}},
    )
    gateway.times = {"git://h/r": 42}
    assert epoch(run(gateway)) == b"42"
    assert gateway.timed == [("git://h/r", "[internal] resolve main build context metadata")]


def test_an_uploaded_context_has_the_time_of_its_newest_file() -> None:
    url = "http://buildkit-session/1"
    gateway = FakeGateway(
        opts={"context": url, ARG: "context"},
        files={url: {"context": b"BZh", "Dockerfile": b"FROM scratch\nCOPY a b\n"}},
    )
    gateway.times = {url: 43}
    assert epoch(run(gateway)) == b"43"


def test_a_named_context_has_a_time_if_it_is_remote() -> None:
    gateway = FakeGateway("FROM scratch\nCOPY a b\n", opts={ARG: "lib", "context:lib": "git://h/lib"})
    gateway.times = {"git://h/lib": 44}
    assert epoch(run(gateway)) == b"44"


@pytest.mark.parametrize("value", ["context", "lib"])
def test_local_directories_have_no_time_and_leave_the_argument_unset(value: str) -> None:
    result = run(FakeGateway(STAGE.format(""), opts={ARG: value, "context:lib": "local:lib"}))
    assert epoch(result) is None
    assert "|1 SOURCE_DATE_EPOCH= /bin/sh" in history(result)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("FROM busybox AS src\nADD git://h/r /\nFROM scratch\nCOPY a b\n", "must use FROM scratch"),
        (STAGE.format("ADD git://h/r /\nRUN x"), "unsupported run instruction"),
        (STAGE.format("ADD git://h/r /\nADD git://h/r /"), "exactly one remote ADD"),
        (STAGE.format("ADD git://h/r git://h/s /"), "exactly one remote ADD source"),
        (STAGE.format("ADD <<a /\nx\na"), "exactly one remote ADD source"),
        (STAGE.format("ADD file /"), "must be a single HTTP"),
        (STAGE.format(""), "exactly one remote ADD"),
    ],
)
def test_a_stage_that_does_more_is_an_error_at_its_line(text: str, problem: str) -> None:
    with pytest.raises(AnyarchError, match=problem) as caught:
        run(FakeGateway(text, opts={ARG: "SRC"}))
    assert caught.value.source is not None
    assert caught.value.source.start == 1


def test_a_name_of_nothing_is_an_error() -> None:
    with pytest.raises(UsageError, match="invalid SOURCE_DATE_EPOCH: yesterday"):
        run(FakeGateway("FROM scratch\nCOPY a b\n", opts={ARG: "yesterday"}))
