"""`anyarch history ls`: the records of builds that the nodes of a builder keep."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from anyarch.cli.flags import Command, Flag
from anyarch.cli.history import DESKTOP

if TYPE_CHECKING:
    from anyarch.builder.history import Entry
    from anyarch.cli.flags import Parsed

__all__ = ["COMMAND", "run"]

COMMAND = Command(
    "history ls",
    summary="List build records",
    usage="history ls [OPTIONS]",
    description=(
        "List the records of builds that the nodes of the builder keep, those that run first, then the "
        "newest first. Filters: ref, repository, status (= and !=; completed, running, error, canceled), "
        "startedAt, completedAt, duration (<, <=, > and >=; a time, or how long ago). All have to hold."
    ),
    flags=(
        Flag(
            "filter",
            "Only records of which this is true, for example status=error",
            metavar="FILTER",
            repeat=True,
        ),
        Flag("format", "Format the output: table, json, or a Go template", metavar="FORMAT"),
        Flag("local", "Only builds of the git repository of the current directory"),
        Flag("no-trunc", "Don't truncate output"),
    ),
    examples=(
        ("What failed today", "anyarch history ls --filter status=error --filter 'startedAt<24h'"),
        ("Refs for a script", "anyarch history ls --format '{{.Ref}}'"),
    ),
)

_TABLE = "{{.Ref}}\t{{.Name}}\t{{.Status}}\t{{.CreatedAt}}\t{{.Duration}}\t{{.Link}}"
_HEADERS = {
    "Ref": "BUILD ID",
    "Name": "NAME",
    "Status": "STATUS",
    "CreatedAt": "CREATED AT",
    "Duration": "DURATION",
    "Link": "",
}
_STATUS = {"running": "Running", "completed": "Completed"}
_NAME_WIDTH = 36


def run(parsed: Parsed) -> int:
    from anyarch.cli.history import records
    from anyarch.imagetools.template import execute

    filters = parsed.texts("filter")
    if parsed.switch("local"):
        filters = [f"repository={_own_repository()}", *filters]
    entries = records(parsed, filters)
    form = parsed.text("format") or "table"
    if form == "json":
        _print_json(entries)
        return 0
    is_table = form == "table" or form.startswith("table ")
    template = form.removeprefix("table").strip() if is_table else form
    template = template.replace("\\t", "\t").replace("\\n", "\n") or _TABLE
    rows = [_row(entry, is_table=is_table, is_cut=not parsed.switch("no-trunc")) for entry in entries]
    if is_table:
        from anyarch.cli.tabwriter import align

        lines = [execute(template, row).split("\t") for row in (_HEADERS, *rows)]
        sys.stdout.write(align(lines, least=10, padding=3))
    else:
        sys.stdout.write("".join(execute(template, row) + "\n" for row in rows))
    return 0


def _own_repository() -> str:
    from anyarch.builder.vcs import read_repository
    from anyarch.errors import UsageError

    repository = read_repository(".", os.environ)
    if repository is None:
        raise UsageError("could not find git repository for local filter", hint="leave --local out")
    if not repository.source:
        raise UsageError(
            "could not get remote URL for local filter",
            hint="no remote URL found for either origin or upstream",
        )
    return repository.source


def _row(entry: Entry, *, is_table: bool, is_cut: bool) -> dict[str, str]:
    from anyarch.cli.history import duration
    from anyarch.cli.units import ago

    record, name, url = entry.record, entry.name, DESKTOP + entry.full_ref
    if is_table:
        url = f"\x1b]8;;{url}\x1b\\Open\x1b]8;;\x1b\\" if sys.stdout.isatty() else ""
        if is_cut and len(name) > _NAME_WIDTH:
            name = ".." + name[2 - _NAME_WIDTH :]
    is_over = record.completed is not None
    return {
        "Ref": record.ref,
        "FullRef": entry.full_ref,
        "Name": name,
        "Status": _STATUS.get(record.status, "Error"),
        "CreatedAt": ago(record.started / 1e9),
        "Duration": duration(record.duration) + "+" * (not is_over) if is_over or record.now else "",
        "Link": url,
    }


def _print_json(entries: list[Entry]) -> None:
    """One object a line, with buildx's keys."""
    import msgspec

    for entry in entries:
        record = entry.record
        value: dict[str, Any] = {
            "ref": entry.full_ref,
            "name": entry.name,
            "status": _STATUS.get(record.status, "Error"),
            "created_at": _utc(record.started),
            "total_steps": record.steps,
            "completed_steps": record.completed_steps,
            "cached_steps": record.cached_steps,
        }
        if record.completed is not None:
            value["completed_at"] = _utc(record.completed)
        sys.stdout.write(msgspec.json.encode(value, order="sorted").decode() + "\n")


def _utc(nanoseconds: int) -> str:
    import time

    whole, rest = divmod(nanoseconds, 1_000_000_000)
    fraction = f".{rest:09d}".rstrip("0") if rest else ""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole)) + fraction + "Z"
