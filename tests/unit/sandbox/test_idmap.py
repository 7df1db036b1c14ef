"""Ranges of /etc/subuid, and what newuidmap is told."""

from __future__ import annotations

from anyarch.sandbox.idmap import map_arguments, parse_subids


def test_ranges_are_found_by_name_and_by_number() -> None:
    text = "alice:100000:65536\nbob:165536:65536\n1000:300000:10\nalice:400000:5\n"

    assert parse_subids(text, name="alice", number=1000) == [(100000, 65536), (300000, 10), (400000, 5)]


def test_damaged_lines_are_no_ranges() -> None:
    text = "alice\nalice:x:1\nalice:1:0\nalice:-1:5\n\n# alice:1:1\nalice:7:8:9\n"

    assert parse_subids(text, name="alice", number=1000) == []


def test_user_is_root_and_its_ranges_follow() -> None:
    assert map_arguments(1000, [(100000, 65536), (300000, 10)]) == [
        *("0", "1000", "1"),
        *("1", "100000", "65536"),
        *("65537", "300000", "10"),
    ]


def test_without_ranges_there_is_nothing_to_call() -> None:
    assert map_arguments(1000, []) == []
