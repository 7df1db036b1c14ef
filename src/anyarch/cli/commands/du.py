"""`anyarch du`: what the store takes of the disk."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from anyarch.cli.flags import Command, Flag
from anyarch.cli.records import FILTER

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anyarch.cli.flags import Parsed
    from anyarch.store.usage import Record

__all__ = ["COMMAND", "run"]

COMMAND = Command(
    "du",
    summary="Show what the store takes of the disk",
    usage="du [OPTIONS]",
    description=(
        "List what the store holds, the largest first, and the sum. `*` after an id marks what may change, "
        "after a size what belongs to an image that has a name. What a running build uses is not reclaimable."
    ),
    flags=(
        FILTER,
        Flag(
            "format",
            "How to print: table, pretty, json or a Go template, for example {{.ID}}",
            metavar="FORMAT",
        ),
        Flag("verbose", "The same as --format=pretty"),
        Flag("timeout", "How long nodes may take to tell their status (default: 20s)", metavar="DURATION"),
    ),
    examples=(
        ("The largest things", "anyarch du | head"),
        ("Caches of RUN --mount=type=cache", "anyarch du --filter type=exec.cachemount --verbose"),
    ),
)


def run(parsed: Parsed) -> int:
    from anyarch.cli.builders import builder_for_build, timeout_of
    from anyarch.cli.records import print_header, print_row, print_verbose
    from anyarch.engine.storage import usage
    from anyarch.errors import UsageError

    form = parsed.text("format")
    if form and parsed.switch("verbose"):
        raise UsageError("--format and --verbose cannot be used together")
    form = form or ("pretty" if parsed.switch("verbose") else "table")
    filters = parsed.texts("filter")
    builder = builder_for_build(parsed)
    if builder is None:
        records = usage(filters)
    else:
        import asyncio

        from anyarch.builder.usage import usage_on

        records = asyncio.run(usage_on(builder, filters, timeout_s=timeout_of(parsed)))
    if form == "json":
        _print_json(records)
    elif form == "pretty":
        print_verbose(records)
    elif form == "table":
        print_header()
        for record in records:
            print_row(record)
    else:
        _print_template(form, records)
    if form in ("table", "pretty") and not filters:
        _print_sums(records)
    return 0


_HEADERS = {
    "ID": "ID",
    "Parents": "PARENTS",
    "CreatedAt": "CREATED AT",
    "Mutable": "MUTABLE",
    "Reclaimable": "RECLAIMABLE",
    "Shared": "SHARED",
    "Size": "SIZE",
    "Description": "DESCRIPTION",
    "UsageCount": "USAGE COUNT",
    "LastUsedAt": "LAST ACCESSED",
    "Type": "TYPE",
}


def _print_template(form: str, records: Sequence[Record]) -> None:
    """Each record by a Go template; as a table with headers where it begins with the word `table`."""
    from anyarch.imagetools.template import execute

    template = form.removeprefix("table ").replace("\\t", "\t").replace("\\n", "\n")
    is_table = template != form and form.startswith("table ")
    rows: list[dict[str, object]] = [_HEADERS] if is_table else []  # type: ignore[list-item]
    lines = [execute(template, row) for row in (*rows, *map(_fields, records))]
    if is_table:
        from anyarch.cli.tabwriter import align

        sys.stdout.write(align([line.split("\t") for line in lines], least=10, padding=3))
    else:
        sys.stdout.write("".join(f"{line}\n" for line in lines))


def _print_json(records: Sequence[Record]) -> None:
    """One object a line, with buildx's keys."""
    import msgspec

    for record in records:
        sys.stdout.write(msgspec.json.encode(_fields(record)).decode() + "\n")


def _fields(record: Record) -> dict[str, object]:
    from anyarch.cli.units import ago, human_size, timestamp

    return {
        "ID": record.id,
        "Parents": list(record.parents) or None,
        "CreatedAt": timestamp(record.created_at),
        "Mutable": record.mutable,
        "Reclaimable": record.reclaimable,
        "Shared": record.shared,
        "Size": human_size(record.size),
        "Description": record.description,
        "UsageCount": record.uses,
        "LastUsedAt": ago(record.last_used),
        "Type": record.kind,
    }


def _print_sums(records: Sequence[Record]) -> None:
    from anyarch.cli.units import human_size

    total = sum(record.size for record in records)
    shared = sum(record.size for record in records if record.shared)
    rows = [("Shared", shared), ("Private", total - shared)] if shared else []
    rows.append(("Reclaimable", sum(record.size for record in records if record.reclaimable)))
    rows.append(("Total", total))
    print("\n".join(f"{name + ':':<14}{human_size(size)}" for name, size in rows))
