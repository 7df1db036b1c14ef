"""Where steps run: refusing emulation, planning, and what a build tells of it at its end."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from anyarch.engine.plan import plan_build
from anyarch.engine.request import BuildRequest
from anyarch.errors import BuildError
from anyarch.solver.events import LogEvent

if TYPE_CHECKING:
    from anyarch.engine.plan import PlanRow
    from anyarch.testing.builder import Builder

pytestmark = [pytest.mark.root, pytest.mark.emulation]

TWO = ("linux/amd64", "linux/arm64")
MIXED = """
FROM busybox AS assets
RUN sleep 0.2; echo data > /data
FROM --platform=$BUILDPLATFORM busybox AS cross
ARG TARGETARCH
RUN echo $TARGETARCH > /target
FROM busybox
COPY --from=assets /data /
COPY --from=cross /target /
"""


def plan(build: Builder, dockerfile: str, **request: object) -> dict[tuple[str, str], PlanRow]:
    rows = plan_build(
        BuildRequest(
            context=str(build.context),
            dockerfile_data=dockerfile.encode(),
            platforms=TWO,
            root=str(build.store),
            **request,  # type: ignore[arg-type]
        )
    )
    return {(row.stage, ",".join(row.targets)): row for row in rows}


# --no-emulation


def test_no_emulation_refuses_before_any_work_and_names_the_line(build: Builder) -> None:
    with pytest.raises(BuildError, match=r"RUN sleep.* of stage assets runs linux/arm64 and would") as caught:
        build(MIXED, platform=TWO, no_emulation=True)

    error = caught.value
    assert error.source is not None
    assert (error.source.start, error.platform) == (3, "linux/arm64")
    assert "--platform=$BUILDPLATFORM" in (error.hint or "")
    assert "native node" in (error.hint or "")


def test_no_emulation_names_the_other_steps_too(build: Builder) -> None:
    with pytest.raises(BuildError, match="so would line 3 for linux/arm64"):
        build("FROM busybox\nRUN true\nRUN false\n", platform="linux/arm64", no_emulation=True)


def test_no_emulation_starts_no_step(build: Builder) -> None:
    events: list[object] = []
    with pytest.raises(BuildError):
        build(
            "FROM busybox AS a\nRUN echo ran\nFROM busybox\nCOPY --from=a /etc /etc\n",
            platform=TWO,
            no_emulation=True,
        )
    assert not [event for event in events if isinstance(event, LogEvent)]


def test_no_emulation_lets_native_and_cross_steps_pass(build: Builder) -> None:
    image = build(
        MIXED.replace("FROM busybox AS assets", "FROM --platform=$BUILDPLATFORM busybox AS assets"),
        platform=TWO,
        no_emulation=True,
    )
    assert image.read_text("/target", "linux/arm64") == "arm64\n"


# --plan


def test_plan_tells_how_each_stage_would_run_and_runs_nothing(build: Builder) -> None:
    rows = plan(build, MIXED)

    assert rows["assets", "linux/amd64"].how == "native"
    emulated = rows["assets", "linux/arm64"]
    assert (emulated.how, emulated.runs_on, emulated.seconds, emulated.unknown) == (
        *("emulated", "linux/arm64"),
        *(None, 1),
    )
    assert emulated.emulator.startswith("qemu-aarch64 ")
    assert rows["cross", "linux/arm64"].how == "cross"
    assert rows["cross", "linux/arm64"].runs_on == "linux/amd64"
    assert rows["stage-2", "linux/arm64"].how == "files"


def test_plan_after_a_build_is_cached_and_knows_the_times(build: Builder) -> None:
    build(MIXED, platform=TWO)

    rows = plan(build, MIXED)
    assert {row.how for row in rows.values()} == {"cached"}
    again = plan(build, MIXED, no_cache=True)["assets", "linux/arm64"]
    assert (again.how, again.cached, again.unknown) == ("emulated", 0, 0)
    assert again.seconds is not None
    assert again.seconds >= 0.2


def test_plan_knows_a_step_again_although_what_is_below_it_changed(build: Builder) -> None:
    build(MIXED, platform=TWO)

    changed = MIXED.replace("FROM busybox AS assets\n", "FROM busybox AS assets\nRUN echo new > /new\n")
    row = plan(build, changed)["assets", "linux/arm64"]

    assert (row.how, row.steps, row.cached, row.unknown) == ("emulated", 2, 0, 1)
    assert row.seconds is not None


def test_plan_sees_that_the_context_has_not_changed(build: Builder) -> None:
    text = "FROM busybox\nCOPY used /\nRUN cat /used\n"
    build(text, files={"used": "1", "unused": "1"}, platform=TWO)

    build.write({"unused": "2"})
    assert {row.how for row in plan(build, text).values()} == {"cached"}
    build.write({"used": "2"})
    assert plan(build, text)["stage-0", "linux/arm64"].how == "emulated"


# the end of a build


def test_build_tells_the_time_spent_emulated_and_what_could_move(build: Builder) -> None:
    image = build(MIXED, platform=TWO)

    assert 0.2 <= image.result.emulated_s < 60
    assert image.result.movable_stages == ("assets",)
    assert {made.platform: made.route for made in image.result.platforms} == {
        "linux/amd64": "native",
        "linux/arm64": "emulated",
    }
    assert build(MIXED, platform=TWO).result.emulated_s == 0


@pytest.mark.parametrize(
    ("stage", "copied"),
    [
        ("ARG TARGETARCH\nRUN echo x > /data", "/data"),
        ("RUN uname -m > /data", "/data"),
        ("RUN cp /bin/busybox /data", "/data"),
        ("RUN echo x > /data", ""),
    ],
    ids=["target argument", "asks for the machine", "machine code", "base of the result"],
)
def test_stage_that_depends_on_its_platform_is_not_told_to_move(
    build: Builder, stage: str, copied: str
) -> None:
    rest = f"FROM busybox\nCOPY --from=work {copied} /x\n" if copied else "FROM work\nRUN true\n"

    image = build(f"FROM busybox AS work\n{stage}\n{rest}", platform="linux/arm64")

    assert image.result.movable_stages == ()
