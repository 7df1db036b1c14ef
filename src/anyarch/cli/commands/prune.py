"""`anyarch prune`: remove what was built and is not needed."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from anyarch.cli.flags import Command, Flag
from anyarch.cli.records import FILTER

if TYPE_CHECKING:
    from anyarch.cli.flags import Parsed
    from anyarch.store.usage import Record

__all__ = ["COMMAND", "run"]

COMMAND = Command(
    "prune",
    summary="Remove what the store does not need to keep",
    usage="prune [OPTIONS]",
    description=(
        "Remove cached steps, layers, downloads and cache mounts, the least recently used first. Images that "
        "were given a name with --tag stay unless --all is given; what a running build uses always stays. "
        "With limits only as much goes as they ask for."
    ),
    flags=(
        Flag("all", "Remove images that have a name, and documents, too", short="a"),
        FILTER,
        Flag("force", "Do not ask", short="f"),
        Flag("max-used-space", "Remove until no more than this is used", metavar="BYTES"),
        Flag("min-free-space", "Remove until this much of the disk is free", metavar="BYTES"),
        Flag("reserved-space", "Always keep this much", metavar="BYTES"),
        Flag("keep-storage", "The same as --reserved-space", metavar="BYTES"),
        Flag("verbose", "Show everything about what is removed"),
        Flag("timeout", "How long nodes may take to tell their status (default: 20s)", metavar="DURATION"),
    ),
    examples=(
        ("Start anew", "anyarch prune --all --force"),
        ("Keep what was used in the last week", "anyarch prune --filter until=168h"),
        ("Bring the store down to 20 GB", "anyarch prune --max-used-space 20GB"),
    ),
)

_WARNING = "WARNING! This will remove all dangling build cache. Are you sure you want to continue? [y/N] "
_WARNING_ALL = "WARNING! This will remove all build cache. Are you sure you want to continue? [y/N] "


def run(parsed: Parsed) -> int:
    from anyarch.cli.builders import builder_for_build, timeout_of
    from anyarch.cli.records import print_header, print_row, print_verbose
    from anyarch.cli.units import human_size
    from anyarch.engine.storage import prune, selection

    builder = builder_for_build(parsed)
    policy = selection(
        parsed.texts("filter"),
        reserved=parsed.text("reserved-space") or parsed.text("keep-storage"),
        max_used=parsed.text("max-used-space"),
        min_free=parsed.text("min-free-space"),
    )
    take_all = parsed.switch("all")
    if not parsed.switch("force") and not _agreed(_WARNING_ALL if take_all else _WARNING):
        return 0
    removed: list[Record] = []

    def on_removed(record: Record) -> None:
        if parsed.switch("verbose"):
            print_verbose([record])
        else:
            if not removed:
                print_header()
            print_row(record)
        removed.append(record)

    if builder is None:
        prune(policy, all=take_all, on_removed=on_removed)
    else:
        import asyncio

        from anyarch.builder.usage import prune_on

        asyncio.run(
            prune_on(
                builder,
                parsed.texts("filter"),
                timeout_s=timeout_of(parsed),
                all=take_all,
                reserved=policy.reserved,
                max_used=policy.max_used,
                min_free=policy.min_free,
                on_removed=on_removed,
            )
        )
    print(f"{'Total:':<14}{human_size(sum(record.size for record in removed))}")
    return 0


def _agreed(question: str) -> bool:
    """Ask on standard output; no answer is no."""
    sys.stdout.write(question)
    sys.stdout.flush()
    try:
        answer = sys.stdin.readline() if sys.stdin is not None else ""
    except OSError:
        answer = ""
    if not answer.endswith("\n"):
        print()
    return answer.strip().lower() in ("y", "yes")
