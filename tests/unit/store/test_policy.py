"""Sizes, ages, filters and the `[gc]` table."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from anyarch.errors import UsageError
from anyarch.store.policy import Disk, Filter, Policy, Settings, parse_duration, parse_size

if TYPE_CHECKING:
    from pathlib import Path

DISK = Disk(total=1000, free=500)
GB = 10**9


@pytest.mark.parametrize(
    ("text", "size"),
    [("1024", 1024), (5, 5), ("512MB", 512 << 20), ("1.5g", 3 << 29), ("10GiB", 10 << 30), ("25%", 250)],
)
def test_sizes_are_read(text: object, size: int) -> None:
    assert parse_size(text, DISK) == size


@pytest.mark.parametrize("text", ["", "x", "-1", "1 apple", "%", "1%%"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="invalid size"):
        parse_size(text, DISK)


@pytest.mark.parametrize(
    ("text", "seconds"), [("48h", 172800), ("1h30m", 5400), ("7d", 604800), (90, 90), ("250ms", 0.25)]
)
def test_durations_are_read(text: object, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "h", "5", "1h x", "-3h"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="invalid duration"):
        parse_duration(text)


@pytest.mark.parametrize("text", ["size=3", "", "=x", "description~=("])
def test_what_is_no_filter_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="invalid filter"):
        Filter.parse(text)


@pytest.mark.parametrize(
    ("policy", "goal"),
    [
        (Policy(), 0),
        (Policy(reserved=300), 300),
        (Policy(max_used=700), 700),
        (Policy(max_used=7000), 800),
        (Policy(min_free=600), 700),
        (Policy(min_free=400), 800),
        (Policy(min_free=1000, reserved=600), 600),
        (Policy(min_free=10_000), 0),
    ],
)
def test_the_goal_is_the_strictest_limit_above_what_is_reserved(policy: Policy, goal: int) -> None:
    assert policy.goal(800, DISK) == goal


def test_the_usual_rules_depend_on_the_disk() -> None:
    small = Settings.of({}, Disk(50 * GB, 20 * GB)).policies[-1]
    assert (small.reserved, small.max_used, small.min_free) == (5 * GB, 40 * GB, 10 * GB)
    large = Settings.of({}, Disk(2000 * GB, 20 * GB)).policies[-1]
    assert (large.reserved, large.max_used, large.min_free) == (10 * GB, 100 * GB, 400 * GB)


def test_the_configuration_file_says_otherwise(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(
        """
        [registry."docker.io"]
        mirrors = []
        [gc]
        enabled = false
        cap = "50%"
        [[gc.policy]]
        filters = ["type==regular,description~=x", "shared"]
        keepDuration = "48h"
        maxUsedSpace = "10%"
        all = true
        """
    )
    settings = Settings.load(DISK, {"ANYARCH_CONFIG": str(path)})
    assert not settings.enabled
    assert settings.cap == 500
    (policy,) = settings.policies
    assert (policy.all, policy.keep_s, policy.max_used) == (True, 172800.0, 100)
    assert [[one.field for one in group] for group in policy.filters] == [["type", "description"], ["shared"]]


@pytest.mark.parametrize("text", ["[gc]\nmaxUsed = 1", "[gc]\ncap = 'big'", "[gc", "[[gc.policy]]\nx = 1"])
def test_nonsense_in_the_configuration_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=r"config\.toml"):
        Settings.load(DISK, {"ANYARCH_CONFIG": str(path)})


def test_no_configuration_file_means_the_usual_rules(tmp_path: Path) -> None:
    assert len(Settings.load(DISK, {"HOME": str(tmp_path)}).policies) == 4
