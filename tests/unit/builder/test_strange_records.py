"""What daemons tell of builds and disks, when it makes no sense."""

from __future__ import annotations

import pytest

from anyarch.api.proto import wellknown_pb2 as wellknown
from anyarch.builder.history import _nanoseconds
from anyarch.builder.usage import _seconds
from anyarch.cli.tabwriter import align
from anyarch.cli.units import ago


@pytest.mark.parametrize("seconds", [1 << 60, -(1 << 60), 0], ids=["late", "early", "none"])
def test_times_of_no_year_are_within_those_that_have_one(seconds: int) -> None:
    stamp = wellknown.Timestamp(seconds=seconds, nanos=-5)
    assert 0 <= _nanoseconds(stamp) < 253_402_300_800 * 10**9
    assert 0 <= _seconds(stamp) < 253_402_300_800
    assert ago(_seconds(stamp))


def test_a_table_moves_no_cursor() -> None:
    told = align([["\x1b[2Ja", "b\x07"], ["c", "d"]])
    assert "\x1b" not in told
    assert "\x07" not in told
    assert [line.split()[-1][-1] for line in told.splitlines()][1] == "d"
