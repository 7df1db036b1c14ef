"""Measure emulated steps with native twins, for their section of docs/bench.md: `make bench-acceleration`.

    python bench/acceleration.py [--only compiles] [--platform linux/arm64] [--rounds 3]

Needs root, QEMU, and the network for packages that are not in `.cache` yet. A round of emulation takes
minutes, all of it more than an hour. With `--only` or `--platform` no report is written.
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
from report import ACCELERATION, machine, replace_section
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


def section(results: list[Found]) -> str:
    """The part of the report."""
    return "\n".join(
        (
            ACCELERATION,
            "",
            f"Made by `make bench-acceleration`. {machine()} One RUN step, native,",
            "emulated and with native twins (`--accelerate cross`) in turn: seconds of the processor,",
            "medians of three (emulated: of one). *Results* compares, path by path, what the last two left.",
            "",
            f"| {' | '.join(HEADINGS)} |",
            f"|{'---|' * len(HEADINGS)}",
            *map(row, results),
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
    results: list[Found] = []
    for name in options.only or WORKLOADS:
        for platform in options.platform or ARCHITECTURES:
            began = time.monotonic()
            for found in WORKLOADS[name](platform, options.rounds):
                print(row(found), f"({time.monotonic() - began:.0f} s)", flush=True)
                began = time.monotonic()
                results.append(found)
    if not options.only and not options.platform:
        replace_section(section(results))
    return 0  # a target that was missed is in the report; machines are noisy


if __name__ == "__main__":
    sys.exit(main())
