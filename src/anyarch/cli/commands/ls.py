"""`anyarch ls`: the builders, their nodes, what these can build."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from anyarch.cli.dispatch import stderr
from anyarch.cli.flags import Command, Flag

if TYPE_CHECKING:
    from anyarch.builder.builder import Builder, Node
    from anyarch.cli.flags import Parsed

__all__ = ["COMMAND", "run"]

COMMAND = Command(
    "ls",
    summary="List builder instances",
    usage="ls [OPTIONS]",
    description=(
        "List the builders and their nodes. `*` after a builder marks the one in use, after a platform one "
        "that was fixed by `create --platform`. Nodes are asked at the same time; one that does not answer "
        "is shown with its error below the table."
    ),
    flags=(
        Flag("format", "Format the output: table, json, or a Go template", metavar="FORMAT"),
        Flag("no-trunc", "Don't truncate output"),
        Flag("timeout", "How long nodes may take to tell their status (default: 20s)", metavar="DURATION"),
    ),
    examples=(
        ("For a script", "anyarch ls --format json"),
        ("Names only", "anyarch ls --format '{{.Name}}'"),
    ),
)

_HEADERS = {
    "Name": "NAME/NODE",
    "DriverEndpoint": "DRIVER/ENDPOINT",
    "Status": "STATUS",
    "LastActivity": "LAST ACTIVITY",
    "Buildkit": "BUILDKIT",
    "Platforms": "PLATFORMS",
}
_CONNECT_S = 0.75
"""A machine that does not even take a connection within this time is dead as far as a list goes."""

_TABLE = "{{.Name}}\t{{.DriverEndpoint}}\t{{.Status}}\t{{.Buildkit}}\t{{.Platforms}}"


def run(parsed: Parsed) -> int:
    import asyncio

    from anyarch.builder.builder import Builder, Surroundings, load_all
    from anyarch.cli.builders import timeout_of

    timeout_s = timeout_of(parsed)
    surroundings = Surroundings(os.environ)
    with surroundings.store.transaction() as transaction:
        current = surroundings.chosen(transaction).name
        builders = [
            Builder(group, surroundings, last_activity=transaction.last_activity(group.name))
            for group in transaction.all()
        ]
    stored = {builder.name for builder in builders}
    contexts = [surroundings.of_context(name) for name in surroundings.context_names() if name not in stored]
    builders += [builder for builder in contexts if builder is not None]
    patience = timeout_s if parsed.text("timeout") else _CONNECT_S
    asyncio.run(load_all(builders, timeout_s, connect_timeout_s=patience))
    form = parsed.text("format") or "table"
    if form == "json":
        _print_json(builders, current)
    elif form == "table" or form.startswith("table "):
        _print_table(
            builders, current, form.removeprefix("table").strip(), is_cut=not parsed.switch("no-trunc")
        )
        _print_errors(builders)
    else:
        from anyarch.imagetools.template import execute

        for row in _rows(builders, current, is_table=False, is_cut=False):
            print(execute(_unescaped(form), row))
    return 0


def _unescaped(template: str) -> str:
    return template.replace("\\t", "\t").replace("\\n", "\n")


def _print_table(builders: list[Builder], current: str, template: str, *, is_cut: bool) -> None:
    from anyarch.cli.tabwriter import align
    from anyarch.imagetools.template import execute

    template = _unescaped(template) or _TABLE
    rows = [_HEADERS | {"Error": "ERROR"}, *_rows(builders, current, is_table=True, is_cut=is_cut)]
    lines = [execute(template, row).split("\t") for row in rows]
    sys.stdout.write(align(lines, least=10, padding=3))


def _rows(builders: list[Builder], current: str, *, is_table: bool, is_cut: bool) -> list[dict[str, str]]:
    """One row for each builder, then one for each of its nodes."""
    from anyarch.builder.shown import truncated

    rows = []
    indent = " \\_ " if is_table else ""
    for builder in builders:
        name = f"{builder.name}*" if builder.name == current and is_table else builder.name
        rows.append(
            {
                "Name": name,
                "DriverEndpoint": builder.driver,
                "LastActivity": builder.last_activity,
                "Status": "",
                "Buildkit": "",
                "Platforms": "",
                "Error": "",
            }
        )
        for node in builder.nodes:
            shown = node.shown_platforms()
            rows.append(
                {
                    "Name": f"{indent}{node.name}",
                    "DriverEndpoint": f"{indent}{node.record.endpoint}",
                    "LastActivity": "",
                    "Status": "error" if node.error is not None else node.status,
                    "Buildkit": node.version,
                    "Platforms": truncated(shown) if is_cut else ", ".join(shown),
                    "Error": node.error.message if node.error is not None else "",
                }
            )
    return rows


def _print_errors(builders: list[Builder]) -> None:
    failed = [(builder, node) for builder in builders for node in builder.nodes if node.error is not None]
    if failed:
        print(file=stderr())
    for builder, node in failed:
        print(f"Failed to get status for {builder.name} ({node.name}): {node.error}", file=stderr())


def _print_json(builders: list[Builder], current: str) -> None:
    import msgspec

    for builder in builders:
        value: dict[str, Any] = {
            "Name": builder.name,
            "Driver": builder.driver,
            "LastActivity": builder.last_activity or "0001-01-01T00:00:00Z",
            "Dynamic": builder.is_dynamic,
            "Nodes": [_node_values(node) for node in builder.nodes],
            "Current": builder.name == current,
        }
        sys.stdout.write(msgspec.json.encode(value, order="sorted").decode() + "\n")


def _node_values(node: Node) -> dict[str, Any]:
    """buildx's keys; what is empty is left out."""
    values = {
        "Flags": list(node.record.flags or ()),
        "DriverOpts": node.record.driver_opts,
        "Files": node.record.files,
        "Status": "error" if node.error is not None else node.status,
        "Version": node.version,
        "Err": node.error.message if node.error is not None else "",
        "IDs": list(node.worker_ids),
        "Platforms": [str(platform) for platform in node.platforms],
        "GCPolicy": [
            {
                "all": rule.all,
                "filter": list(rule.filters) or None,
                "keepDuration": rule.keep_duration_s * 1_000_000_000,
                "reservedSpace": rule.reserved_space,
                "maxUsedSpace": rule.max_used_space,
                "minFreeSpace": rule.min_free_space,
            }
            for rule in node.gc_policy
        ],
        "Labels": node.labels,
    }
    named: dict[str, Any] = {"Name": node.name, "Endpoint": node.record.endpoint}
    return named | {key: value for key, value in values.items() if value}
