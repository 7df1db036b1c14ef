"""docs/bench.md: what `make bench` measures, and below it the section of `make bench-acceleration`."""

from __future__ import annotations

import os
import platform
from pathlib import Path

REPORT = Path(__file__).resolve().parent.parent / "docs/bench.md"
ACCELERATION = "## Emulated steps with native twins"


def machine() -> str:
    """What was measured on."""
    kernel = platform.release().partition("-")[0]
    return f"Machine: {os.cpu_count()} cores, {platform.machine()}, Linux {kernel}."


def replace_top(text: str) -> None:
    """Write all but the section on acceleration, which stays."""
    _, heading, section = REPORT.read_text().partition(ACCELERATION)
    REPORT.write_text(f"{text}\n{heading}{section}" if heading else text)


def acceleration_section() -> str:
    """What is written on acceleration: "" for a report without."""
    return REPORT.read_text().partition(ACCELERATION)[2]


def replace_section(text: str) -> None:
    """Write the section on acceleration; what is above it stays."""
    top = REPORT.read_text().partition(ACCELERATION)[0]
    REPORT.write_text(f"{top.rstrip()}\n\n{text}")
