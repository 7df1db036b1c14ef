from __future__ import annotations

import pytest

from anyarch.spec.number import natural


@pytest.mark.parametrize(("text", "number"), [("0", 0), ("007", 7), ("9223372036854775807", 2**63 - 1)])
def test_decimal_digits_are_a_number(text: str, number: int) -> None:
    assert natural(text) == number


@pytest.mark.parametrize(
    "text", ["", "-1", "+1", " 1", "1.0", "0x1", "²", "٣", "1_000", "9" * 20, "9" * 5000]
)
def test_all_else_is_none(text: str) -> None:
    assert natural(text) is None
