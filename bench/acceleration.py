"""Measure emulated steps with native twins, for their section of docs/bench.md: `make bench-acceleration`.

    python bench/acceleration.py [--only compiles] [--platform linux/arm64] [--rounds 3]

Needs root, QEMU, and the network for packages that are not in `.cache` yet. A round of emulation takes
minutes, all of it more than an hour. Each row is written as soon as it is measured; those that `--only` and
`--platform` leave out stay as they are.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from functools import partial
from typing import TYPE_CHECKING

import chains
import compiles
import installs
from report import ACCELERATION, acceleration_section, machine, replace_section
from ways import ARCHITECTURES, ROUNDS, WAYS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ways import Found

WORKLOADS: dict[str, Callable[[str, int], Iterator[Found]]] = {
    "compiles": compiles.measure,
    "dispatch": compiles.measure_dispatch,
    "installs": installs.measure,
    **{name: partial(chains.measure, name) for name in chains.CHAINS},
}

HEADINGS = ("step", "platform", *WAYS, "accelerated is", "at most", "results", "met")


def row(found: Found) -> str:
    """A line of the table."""
    cells = (
        found.what,
        found.platform,
        f"{found.native:.1f} s",
        f"{found.emulated:.1f} s",
        f"{found.accelerated:.1f} s",
        f"{found.times:.2f} times {found.base}",
        f"{found.most}",
        found.told,
        "yes" if found.met else "**no**",
    )
    return f"| {' | '.join(cells)} |"


def rows_of(text: str) -> dict[tuple[str, str], str]:
    """The lines of a section's table, by step and platform."""
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    return {(cells[1].strip(), cells[2].strip()): line for line in rows[1:] if (cells := line.split("|"))}


def section(rows: dict[tuple[str, str], str]) -> str:
    """The part of the report: steps as they were found first, each with its platforms in our order."""
    steps, platforms = list(dict.fromkeys(step for step, _ in rows)), list(ARCHITECTURES)
    order = sorted(rows, key=lambda key: (steps.index(key[0]), platforms.index(key[1])))
    return "\n".join(
        (
            ACCELERATION,
            "",
            f"Made by `make bench-acceleration`. {machine()} One RUN step, native,",
            "emulated and with native twins (`--accelerate cross`) in turn: seconds of the processor,",
            "medians of three (emulated: of one). *Results* compares, path by path, what the last two left;",
            "jq and fmt are run for that, too, in a step that is not counted: it is emulated.",
            "",
            f"| {' | '.join(HEADINGS)} |",
            f"|{'---|' * len(HEADINGS)}",
            *(rows[key] for key in order),
            "",
        )
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--only", choices=sorted(WORKLOADS), action="append")
    parser.add_argument("--platform", choices=sorted(ARCHITECTURES), action="append")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args()
    if os.geteuid() != 0:
        print("the benchmarks need root: roots of Debian have files of several owners", file=sys.stderr)
        return 1
    rows: dict[tuple[str, str], str] = {}
    for name in options.only or WORKLOADS:
        for platform in options.platform or ARCHITECTURES:
            began = time.monotonic()
            for found in WORKLOADS[name](platform, options.rounds):
                line = rows[found.what, found.platform] = row(found)
                print(line, f"({time.monotonic() - began:.0f} s)", flush=True)
                began = time.monotonic()
                replace_section(section(rows_of(acceleration_section()) | rows))
    if not options.only and not options.platform:
        replace_section(section(rows))  # also without steps that are measured no more
    return 0  # a target that was missed is in the report; machines are noisy


if __name__ == "__main__":
    sys.exit(main())
