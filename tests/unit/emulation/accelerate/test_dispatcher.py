"""The dispatcher's log and identities; what it does is tested in whole builds and in tests/engine."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyarch.elf.assembler import HOSTS, assembler_for
from anyarch.emulation.accelerate.dispatcher import (
    ARGUMENT,
    PAGE,
    RAN,
    ArgumentRule,
    Condition,
    EnvironmentRule,
    Identity,
    Place,
    Twin,
    identity,
    read_log,
)
from anyarch.emulation.accelerate.machine_code import code
from anyarch.emulation.accelerate.places import encoded


def test_a_file_is_known_by_size_time_and_first_page() -> None:
    page = bytes(range(256)) * (PAGE // 256)
    known = identity(page, size=9000, mtime=5)

    assert known is not None
    assert identity(page + b"more", size=9000, mtime=5) == known
    assert identity(page, size=9001, mtime=5) != known
    assert identity(page, size=9000, mtime=6) != known
    assert identity(page[:-1] + b"x", size=9000, mtime=5) != known
    assert identity(page[:-1], size=PAGE - 1, mtime=5) is None


def test_the_log_is_counted_by_twin_and_verdict() -> None:
    raw = b"".join(struct.pack("<II", *record) for record in [(0, RAN), (1, RAN), (0, RAN), (0, ARGUMENT)])

    assert read_log(raw, 2) == {0: {RAN: 2, ARGUMENT: 1}, 1: {RAN: 1}}


@given(st.binary(max_size=200))
def test_whatever_a_step_writes_to_the_log_is_taken(raw: bytes) -> None:
    found = read_log(raw, 3)

    assert set(found) <= {0, 1, 2}


def test_places_are_told_apart_by_whether_files_are_known() -> None:
    directory, file = Place("/d", ("a", "b")), Place("/d/a", files=((258, -1), (3, 4)))
    words = struct.pack("<4Q", 258, (1 << 64) - 1, 3, 4)

    assert encoded([]) == b"\0"
    assert encoded([Place("/d")]) == b"\2/d\0\0"
    assert encoded([directory, file]) == (
        b"\2/d\0\1a\0\1b\0" + b"\3/d/a\0\1" + words[:16] + b"\1" + words[16:] + b"\0"
    )


@pytest.mark.parametrize("host", HOSTS)
def test_the_code_is_made_for_every_host_and_is_the_same_each_time(host: str) -> None:
    twin = Twin(
        "/bin/true",
        "t/bin/true",
        (Identity(1, 2, 3),),
        (
            Condition((), (EnvironmentRule("LD_"), EnvironmentRule("LANG=", ("", "C")))),
            Condition(("LC_ALL=",)),
            Condition(places=(Place("/d", ("a", "b")), Place("/d/a", files=((1, 2), (3, 4))))),
        ),
        (ArgumentRule("refuse", "-x"), ArgumentRule("next", "-p", "/a"), ArgumentRule("swap", "/a", "/b")),
        ("-v",),
        expands=True,
    )
    first = code(assembler_for(host), [twin] * 200, host=host, go_on=-0x1000)

    assert first == code(assembler_for(host), [twin] * 200, host=host, go_on=-0x1000)
    assert b"t/bin/true\0" in first
