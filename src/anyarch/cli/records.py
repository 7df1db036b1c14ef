"""Records of the store on a terminal, for the commands that list them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anyarch.cli.flags import Flag

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anyarch.store.usage import Record

__all__ = ["FILTER", "print_header", "print_row", "print_verbose"]

FILTER = Flag(
    "filter",
    "Only what this is true of: type=regular, id=…, description~=REGEX, until=24h, shared, private, mutable,"
    " inuse and the like; != negates",
    metavar="FILTER",
    repeat=True,
)


def print_verbose(records: Sequence[Record]) -> None:
    from anyarch.cli.units import ago, human_size, timestamp

    for record in records:
        rows = (
            ("ID", record.id),
            ("Parents", ",".join(record.parents)),
            ("Created at", timestamp(record.created_at)),
            ("Mutable", str(record.mutable).lower()),
            ("Reclaimable", str(record.reclaimable).lower()),
            ("Shared", str(record.shared).lower()),
            ("Size", human_size(record.size)),
            ("Description", record.description),
            ("Usage count", str(record.uses)),
            ("Last used", ago(record.last_used)),
            ("Type", record.kind),
        )
        print("\n".join(f"{name + ':':<14}{value}" for name, value in rows if value) + "\n")


def print_header() -> None:
    print(f"{'ID':<72}  {'RECLAIMABLE':<11}  {'SIZE':<10}  LAST ACCESSED")


def print_row(record: Record) -> None:
    from anyarch.cli.units import ago, human_size

    name = record.id + "*" * record.mutable
    size = human_size(record.size) + "*" * record.shared
    reclaimable = str(record.reclaimable).lower()
    print(f"{name:<72}  {reclaimable:<11}  {size:<10}  {ago(record.last_used)}")
