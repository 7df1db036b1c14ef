"""Limits of RUN steps, through whole builds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from anyarch.errors import ExecFailed
from anyarch.solver.events import WarningEvent

if TYPE_CHECKING:
    from anyarch.testing.builder import Builder

pytestmark = pytest.mark.root

has_memory_groups = pytest.mark.skipif(
    not Path("/sys/fs/cgroup/memory/cgroup.procs").exists()
    and "memory" not in Path("/sys/fs/cgroup/cgroup.controllers").read_text(),
    reason="this machine has no control groups for memory",
)


@has_memory_groups
def test_step_that_needs_more_memory_than_its_limit_fails_and_says_so(build: Builder) -> None:
    text = "FROM busybox\nRUN true\nRUN head -c 90000000 /dev/zero | tail -c 80000000\n"
    with pytest.raises(ExecFailed, match="complete successfully: cannot allocate memory") as caught:
        build(text, resources={"memory": str(24 << 20)})

    assert caught.value.status == 137
    assert str(24 << 20) in (caught.value.hint or "")
    assert caught.value.source is not None
    assert caught.value.source.start == 3


@has_memory_groups
def test_limits_are_no_part_of_the_cache_key(build: Builder) -> None:
    text = "FROM busybox\nRUN cat /proc/sys/kernel/random/uuid > /id\n"
    first = build(text, resources={"memory": str(64 << 20)}).read_text("/id")
    assert build(text).read_text("/id") == first


def test_limit_that_cannot_be_kept_is_told_and_fails_nothing(
    build: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "anyarch.sandbox.resources.settings_of",
        lambda _: (("speed", "warp", "warp.max", "9", "warp.max", "9"),),
    )
    image = build("FROM busybox\nRUN echo ran > /x\n", resources={"cpushares": "100"})

    assert image.read_text("/x") == "ran\n"
    (told,) = [event.short for event in image.events if isinstance(event, WarningEvent)]
    assert told == "a step ran without its limits: speed: this machine has no control group for warp"


def test_shared_memory_ulimits_and_hosts_of_the_command_line_hold(build: Builder) -> None:
    from anyarch.engine.request import Ulimit

    image = build(
        "FROM busybox\nRUN df -k /dev/shm | tail -1 > /shm; ulimit -n > /files; ulimit -Hn >> /files; "
        "grep database /etc/hosts > /hosts\n",
        shm_size=7 << 20,
        ulimits=(Ulimit("nofile", 321, 654),),
        add_hosts=(("database", "10.0.0.7"),),
    )
    assert image.read_text("/shm").split()[1] == str(7 << 10)
    assert image.read_text("/files").split() == ["321", "654"]
    assert image.read_text("/hosts").split() == ["10.0.0.7", "database"]
