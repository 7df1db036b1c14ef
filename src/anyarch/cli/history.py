"""What the commands about build records share."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anyarch.builder.history import Entry
    from anyarch.cli.flags import Parsed

__all__ = ["DESKTOP", "REF_HELP", "chosen_record", "duration", "records", "ref_argument"]

DESKTOP = "docker-desktop://dashboard/build/"
REF_HELP = (
    "REF",
    "name of a record, as `history ls` shows it; ^N is the build before the N newest (default: the newest)",
)


def records(parsed: Parsed, filters: Sequence[str]) -> list[Entry]:
    import asyncio

    from anyarch.builder.history import list_records
    from anyarch.cli.builders import chosen_builder

    return asyncio.run(list_records(chosen_builder(parsed), filters))


def ref_argument(parsed: Parsed) -> str:
    return parsed.args[0] if parsed.args else ""


def chosen_record(parsed: Parsed) -> Entry:
    """The record that the first argument means. Raises `BuilderError`."""
    import asyncio

    from anyarch.builder.history import find_record
    from anyarch.cli.builders import chosen_builder

    return asyncio.run(find_record(chosen_builder(parsed), ref_argument(parsed)))


def duration(nanoseconds: int) -> str:
    """`3.2s`, `2m  5s`."""
    seconds = nanoseconds / 1e9
    return f"{seconds:.1f}s" if seconds < 60 else f"{int(seconds) // 60}m {int(seconds) % 60:2d}s"
