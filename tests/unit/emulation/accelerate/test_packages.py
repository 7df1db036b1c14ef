"""Versions of packages."""

from __future__ import annotations

import pytest

from anyarch.emulation.accelerate.packages import is_same_source


@pytest.mark.parametrize(
    ("version", "other", "is_same"),
    [
        ("3.11-4", "3.11-4", True),
        ("3.11-4+b1", "3.11-4", True),
        ("3.11-4+b1", "3.11-4+b12", True),
        ("3.11-4", "3.11-5", False),
        ("12.2.0-14", "12.2.0-14+deb12u1", False),
        ("1.3.dfsg+really1.3.1-1+b1", "1.3.dfsg+really1.3.1-1+b1", True),
        ("", "", False),
    ],
)
def test_a_package_that_was_built_anew_is_of_the_same_source(
    version: str, other: str, *, is_same: bool
) -> None:
    assert is_same_source(version, other) == is_same
