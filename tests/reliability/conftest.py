"""Fixtures of tests that kill, stop and crowd builds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.reliability.processes import family

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.reliability.processes import Family


@pytest.fixture
def processes() -> Iterator[Family]:
    """Starts command lines and knows what is left of them; ends all of it with the test."""
    with family() as found:
        yield found
