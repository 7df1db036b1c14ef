"""`anyarch emulators ls`: what this machine can run, how, and what is missing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anyarch.cli.flags import Command, Flag
from anyarch.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anyarch.cli.flags import Parsed
    from anyarch.emulation.survey import Status

__all__ = ["COMMAND", "run", "table"]

COMMAND = Command(
    "emulators ls",
    summary="Show which platforms this machine can run, and how",
    usage="emulators ls [OPTIONS]",
    description=(
        "Show for each platform how its programs would run in a step: natively, by a handler that is "
        "registered with the machine's binfmt_misc, or by a QEMU in a binfmt_misc of the build's own. Each "
        "is tried with a tiny program. The exit status is 1 when a platform asked for with --platform would "
        "not work."
    ),
    flags=(
        Flag(
            "emulators",
            "Directory of the QEMU programs to use, in place of the machine's",
            metavar="DIR",
            complete="directory",
        ),
        Flag("format", "How it is shown", metavar="FORMAT", choices=("table", "json")),
        Flag("no-probe", "Run no program: tell what would be tried"),
        Flag(
            "platform",
            "Only these platforms: a comma list; local is this machine's",
            metavar="OS/ARCH[/VARIANT],...",
            repeat=True,
        ),
        Flag("probe", "Run a tiny program of each platform (the default)"),
    ),
    examples=(
        ("All platforms", "anyarch emulators ls"),
        ("Whether a build would work, in a script", "anyarch emulators ls --platform linux/arm64 && ..."),
    ),
)

_ROUTES = {"native": "native", "host": "host handler", "private": "private", "register": "registers", "": "-"}


def run(parsed: Parsed) -> int:
    """0, or 1 when a platform that was asked for does not work."""
    from anyarch.engine.emulators import list_emulators
    from anyarch.engine.grammar import directory

    probe = not parsed.switch("no-probe")
    if "probe" in parsed.given:
        if "no-probe" in parsed.given and parsed.switch("probe") != probe:
            raise UsageError("--probe and --no-probe cannot be used together")
        probe = parsed.switch("probe")
    wanted = [text for text in parsed.texts("platform") if text]
    emulators = directory(parsed.text("emulators"), "--emulators")
    statuses = list_emulators(wanted, probe=probe, emulators=emulators)
    if parsed.text("format") == "json":
        import msgspec

        values = [_values(status) for status in statuses]
        print(msgspec.json.format(msgspec.json.encode(values), indent=2).decode())
    else:
        print(table(statuses), end="")
    return 1 if wanted and not all(status.is_usable for status in statuses) else 0


def _values(status: Status) -> dict[str, object]:
    """Every field, so that a script finds what it looks for; None where the probe was not made."""
    import msgspec

    names = {field.name: field.encode_name for field in msgspec.structs.fields(status)}
    return {shown: getattr(status, name) for name, shown in names.items()}


def table(statuses: Sequence[Status]) -> str:
    """One row a platform, then what is missing and what to do about it."""
    rows = [("PLATFORM", "RUNS", "PROBE", "INTERPRETER", "VERSION", "FLAGS", "REGISTERED BY")]
    rows += [
        (
            status.platform,
            _ROUTES[status.route],
            {True: "ok", False: "failed", None: "-"}[status.works],
            status.interpreter or "-",
            status.version.partition(" ")[0] or "-",
            status.flags or "-",
            status.registered_by or "-",
        )
        for status in statuses
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    for status in statuses:
        said = [status.problem] if status.problem else []
        said += status.notes
        if not said:
            continue
        lines += ["", f"{status.platform}:"]
        lines += [f"  {text}" for text in said]
        if status.hint:
            lines.append(f"  hint: {status.hint}")
        elif status.notes and not status.problem:
            lines.append("  hint: it is not used here; other builders on this machine would fail with it")
    return "\n".join(lines) + "\n"
