"""FROM --platform= of a stage: ignored with a warning that tells what it would gain, or honoured."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from anyarch.errors import UsageError
from anyarch.solver.events import WarningEvent

if TYPE_CHECKING:
    from pathlib import Path

    from anyarch.testing.builder import Builder, BuiltImage

TWO = ("linux/amd64", "linux/arm64")

NEUTRAL = """
FROM busybox AS base
COPY shared /shared
FROM --platform=$BUILDPLATFORM base AS assets
ARG TARGETARCH
COPY files /files
FROM base
COPY --from=assets /files /files
"""

STEPS = """
FROM busybox AS base
RUN echo neutral > /neutral
FROM --platform=$BUILDPLATFORM base AS assets
RUN uname -m > /machine && cat /neutral > /asset
FROM base
COPY --from=assets /machine /asset /
"""


def warnings(image: BuiltImage) -> list[WarningEvent]:
    return [event for event in image.events if isinstance(event, WarningEvent)]


def test_platform_that_is_ignored_is_told_once_with_its_line_and_the_gain(build: Builder) -> None:
    image = build(NEUTRAL, platform=TWO, files={"shared": "s", "files": "f"})
    found = warnings(image)
    assert len(found) == 1
    assert found[0].short == (
        "FROM --platform=linux/amd64 base: the platform is ignored, because base is a stage of linux/arm64 "
        "(line 4)"
    )
    assert "--stage-platform" in found[0].detail[0]
    assert found[0].lines == ((4, 4),)


def test_platform_that_is_that_of_the_stage_needs_no_word(build: Builder) -> None:
    image = build(NEUTRAL, platform="linux/amd64", files={"shared": "s", "files": "f"})
    assert warnings(image) == []


@pytest.mark.root
@pytest.mark.emulation
def test_stage_for_the_platform_it_asks_for_runs_natively_and_once(build: Builder) -> None:
    def ran(image: BuiltImage) -> list[str]:
        return sorted(name for name in image.executed if "RUN" in name)

    ignored = build(STEPS, platform=TWO)
    assert ignored.read_text("/machine", "linux/arm64") == "aarch64\n"
    assert len(ran(ignored)) == 4
    honoured = build(STEPS, platform=TWO, stage_platform=True, no_cache=True)
    assert {honoured.read_text("/machine", name) for name in TWO} == {"x86_64\n"}
    assert {honoured.read_text("/asset", name) for name in TWO} == {"neutral\n"}
    # base for each of the two, assets once.
    assert len(ran(honoured)) == 3
    assert warnings(honoured) == []


def test_numbers_of_stages_mean_those_of_the_file(build: Builder) -> None:
    text = """
    FROM busybox AS base
    COPY a /a
    FROM --platform=$BUILDPLATFORM base AS assets
    COPY b /b
    FROM scratch
    COPY --from=1 /b /b
    COPY --from=0 /a /a
    """
    image = build(text, platform="linux/arm64", files={"a": "A", "b": "B"}, stage_platform=True)
    assert (image.read_text("/a"), image.read_text("/b")) == ("A", "B")


def test_setting_of_the_configuration_file(
    build: Builder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "config.toml"
    monkeypatch.setenv("ANYARCH_CONFIG", str(config))
    config.write_text("[build]\nstagePlatform = true\n")
    image = build(NEUTRAL, platform=TWO, files={"shared": "s", "files": "f"})
    assert warnings(image) == []
    for text, words in (("stagePlatfrom = true", "stagePlatfrom"), ("stagePlatform = 1", "true or false")):
        config.write_text(f"[build]\n{text}\n")
        with pytest.raises(UsageError, match=words):
            build(NEUTRAL, platform=TWO, files={"shared": "s", "files": "f"})
