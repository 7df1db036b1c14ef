"""`anyarch inspect`: one builder with all that is known of its nodes."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from anyarch.cli.flags import Command, Flag

if TYPE_CHECKING:
    from anyarch.builder.builder import Builder, Node
    from anyarch.builder.driver import Device, PruneRule
    from anyarch.cli.flags import Parsed

__all__ = ["COMMAND", "run"]

COMMAND = Command(
    "inspect",
    summary="Inspect current builder instance",
    usage="inspect [OPTIONS] [NAME]",
    description="Show a builder: its nodes, their endpoints, options, status, version and platforms.",
    arguments=(("NAME", "a builder instance (default: the one in use)"),),
    most=1,
    flags=(
        Flag("bootstrap", "Ensure builder has booted before inspecting"),
        Flag("timeout", "How long nodes may take to tell their status (default: 20s)", metavar="DURATION"),
    ),
    examples=(("Start the nodes and see what they can build", "anyarch inspect --bootstrap mybuild"),),
)


def run(parsed: Parsed) -> int:
    import asyncio

    from anyarch.cli.boot import boot
    from anyarch.cli.builders import chosen_builder, timeout_of
    from anyarch.cli.tabwriter import align

    timeout_s = timeout_of(parsed)
    builder = chosen_builder(parsed, parsed.args[0] if parsed.args else "")

    async def look() -> None:
        if parsed.switch("bootstrap"):
            await boot(builder, timeout_s)
        else:
            await builder.load(timeout_s)

    asyncio.run(look())
    sys.stdout.write(align([line.split("\t") for line in _lines(builder)]))
    return 0


def _lines(builder: Builder) -> list[str]:
    lines = [f"Name:\t{builder.name}", f"Driver:\t{builder.driver}"]
    if builder.last_activity:
        when = builder.last_activity.replace("T", " ").replace("Z", " +0000 UTC")
        lines.append(f"Last Activity:\t{when}")
    lines += ["", "Nodes:"]
    for number, node in enumerate(builder.nodes):
        lines += [""] if number else []
        lines += _node_lines(node)
    return lines


def _node_lines(node: Node) -> list[str]:
    record = node.record
    lines = [f"Name:\t{record.name}", f"Endpoint:\t{record.endpoint}"]
    if record.driver_opts:
        options = [f"{name}={_quoted(value)}" for name, value in sorted(record.driver_opts.items())]
        lines.append(f"Driver Options:\t{' '.join(options)}")
    if node.error is not None:
        return [*lines, f"Error:\t{node.error.message}"]
    lines.append(f"Status:\t{node.status}")
    if record.flags:
        lines.append(f"BuildKit daemon flags:\t{' '.join(record.flags)}")
    if node.version:
        lines.append(f"BuildKit version:\t{node.version}")
    if node.platforms:
        lines.append(f"Platforms:\t{', '.join(node.shown_platforms())}")
    if node.labels:
        lines += ["Labels:", *(f"\t{name}:\t{value}" for name, value in sorted(node.labels.items()))]
    if node.devices:
        lines.append("Devices:")
        for device in node.devices:
            lines += _device_lines(device)
    for number, rule in enumerate(node.gc_policy):
        lines += _rule_lines(number, rule)
    for name, content in (record.files or {}).items():
        lines.append(f"File#{name}:")
        lines += [f"\t> {line}" for line in content.decode("utf-8", "replace").split("\n")]
    return lines


def _quoted(text: str) -> str:
    import json

    return json.dumps(text, ensure_ascii=False)


def _device_lines(device: Device) -> list[str]:
    lines = [f"\tName:\t{device.name}"]
    if device.on_demand:
        lines.append("\tOn-Demand:\ttrue")
    else:
        lines.append(f"\tAutomatically allowed:\t{str(device.auto_allow).lower()}")
    if device.annotations:
        lines += ["\tAnnotations:", *(f"\t\t{name}:\t{text}" for name, text in device.annotations.items())]
    return lines


def _rule_lines(number: int, rule: PruneRule) -> list[str]:
    lines = [f"GC Policy rule#{number}:", f"\tAll:\t{str(rule.all).lower()}"]
    if rule.filters:
        lines.append(f"\tFilters:\t{' '.join(rule.filters)}")
    if rule.keep_duration_s:
        lines.append(f"\tKeep Duration:\t{_duration(rule.keep_duration_s)}")
    for title, size in (
        ("Reserved Space", rule.reserved_space),
        ("Max Used Space", rule.max_used_space),
        ("Min Free Space", rule.min_free_space),
    ):
        if size:
            lines.append(f"\t{title}:\t{_bytes_size(size)}")
    return lines


def _duration(seconds: int) -> str:
    """As Go prints it: `48h0m0s`."""
    hours, rest = divmod(seconds, 3600)
    minutes, left = divmod(rest, 60)
    if hours:
        return f"{hours}h{minutes}m{left}s"
    return f"{minutes}m{left}s" if minutes else f"{left}s"


def _bytes_size(size: float) -> str:
    """`12.5GiB`: four significant digits, units of 1024."""
    units = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
    number = 0
    while size >= 1024 and number < len(units) - 1:
        size /= 1024
        number += 1
    return f"{size:.4g}{units[number]}"
