"""`anyarch history inspect`: all that is known of one build."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING, Any

from anyarch.cli.flags import Command, Flag
from anyarch.cli.history import DESKTOP, REF_HELP

if TYPE_CHECKING:
    from anyarch.builder.history import Entry, Failure
    from anyarch.cli.flags import Parsed

__all__ = ["COMMAND", "run"]

COMMAND = Command(
    "history inspect",
    summary="Inspect a build record",
    usage="history inspect [OPTIONS] [REF]",
    description=(
        "Show the record of a build: where it was started, its options, how it ended, what it left. "
        "`history inspect attachment` prints the documents among that."
    ),
    arguments=(REF_HELP,),
    most=1,
    flags=(Flag("format", "Format the output: pretty, json, or a Go template", metavar="FORMAT"),),
    examples=(
        ("The build before the newest", "anyarch history inspect ^1"),
        ("One value", "anyarch history inspect --format '{{.Status}}'"),
    ),
)

_CODES = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
]
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def run(parsed: Parsed) -> int:
    import asyncio

    import msgspec

    from anyarch.builder.history import inspect_record
    from anyarch.cli.history import chosen_record, ref_argument
    from anyarch.history.details import describe

    entry = chosen_record(parsed)
    found = asyncio.run(inspect_record(entry))
    values = describe(
        entry.record,
        name=entry.name,
        local_path=entry.state.local_path,
        dockerfile_path=entry.state.dockerfile_path,
        cwd=os.getcwd(),
    )
    errors = values.pop("Errors", None)
    if found.failure is not None:
        values.setdefault("Error", {}).update(_failure_values(found.failure))
    if found.materials:
        values["Materials"] = list(found.materials)
    if found.attachments:
        values["Attachments"] = [
            {
                "Digest": item.digest,
                **({"Platform": item.platform} if item.platform else {}),
                "Type": item.type,
            }
            for item in found.attachments
        ]
    if errors:
        values["Errors"] = errors
    form = parsed.text("format") or "pretty"
    if form == "json":
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(values), indent=2).decode() + "\n")
    elif form == "pretty":
        sys.stdout.write(_pretty(entry, values, found.failure, shows_ref=not ref_argument(parsed)))
    else:
        from anyarch.imagetools.template import execute

        print(execute(form, values))
    return 0


def _failure_values(failure: Failure) -> dict[str, Any]:
    import base64

    sources = _sources(failure)
    found: dict[str, Any] = {"Name": failure.step, "Logs": list(failure.log)}
    if sources:
        found["Sources"] = base64.b64encode(sources.encode()).decode()
    return {key: value for key, value in found.items() if value}


def _sources(failure: Failure) -> str:
    from anyarch.cli.errors import excerpt

    return excerpt(failure.error.source) if failure.error.source is not None else ""


def _pretty(entry: Entry, values: dict[str, Any], failure: Failure | None, *, shows_ref: bool) -> str:
    parts = [_what(values, shows_ref=shows_ref), _pairs(values.get("NamedContexts"), "NAMED CONTEXT")]
    parts += [_how(entry, values), _config(values["Config"])]
    parts += [_pairs(values.get("BuildArgs"), "BUILD ARG"), _pairs(values.get("Labels"), "LABEL")]
    if "Materials" in values:
        rows = [[item.get("URI", ""), ", ".join(item.get("Digests", ()))] for item in values["Materials"]]
        parts.append("Materials:\n" + _table([["URI", "DIGEST"], *rows]) + "\n")
    if "Attachments" in values:
        rows = [[item["Digest"], item.get("Platform", ""), item["Type"]] for item in values["Attachments"]]
        parts.append("Attachments:\n" + _table([["DIGEST", "PLATFORM", "TYPE"], *rows]) + "\n")
    if failure is not None:
        parts.append(_sources(failure) + "\n" if failure.error.source is not None else "")
        if failure.log:
            log = "".join(f"> {line}\n" for line in failure.log)
            parts.append(f"Logs:\n> => {failure.step}:\n{log}\n")
    parts.append(f"Print build logs: anyarch history logs {entry.record.ref}\n")
    if os.path.exists(os.path.expanduser("~/.docker/desktop-build/.lastaccess")):
        parts.append(f"View build in Docker Desktop: {DESKTOP}{entry.full_ref}\n")
    return "".join(parts)


def _table(rows: list[list[str]]) -> str:
    from anyarch.cli.tabwriter import align

    return align(rows, least=1, padding=1, tabs=8)


def _pairs(pairs: list[dict[str, str]] | None, title: str) -> str:
    if not pairs:
        return ""
    rows = [[pair.get("Name", ""), pair.get("Value", "")] for pair in pairs]
    return _table([[title, "VALUE"], *rows]) + "\n"


def _what(values: dict[str, Any], *, shows_ref: bool) -> str:
    titles = {
        "Name": "Name",
        "Ref": "Ref",
        "Context": "Context",
        "Dockerfile": "Dockerfile",
        "VCSRepository": "VCS Repository",
        "VCSRevision": "VCS Revision",
        "Target": "Target",
        "Platform": "Platforms",
        "KeepGitDir": "Keep Git Dir",
    }
    rows = [
        [f"{title}:", _text(values[key])]
        for key, title in titles.items()
        if values.get(key) and (key != "Ref" or shows_ref)
    ]
    return _table(rows) + "\n"


def _how(entry: Entry, values: dict[str, Any]) -> str:
    from anyarch.cli.history import duration

    record = entry.record
    started = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.started // 1_000_000_000))
    running = " (running)" if record.completed is None else ""
    rows = [["Started:", started], ["Duration:", duration(record.duration) + running]]
    if values["Status"] == "canceled":
        rows.append(["Status:", "Canceled"])
    elif record.error is not None:
        code = record.error.code
        name = _CODES[code] if 0 <= code < len(_CODES) else f"Code({code})"
        rows.append(["Error:", f"{name} {record.error.message}"])
    cached = record.cached_steps / record.steps * 100 if record.steps else 0
    rows.append(["Build Steps:", f"{record.completed_steps}/{record.steps} ({cached:.0f}% cached)"])
    return _table(rows) + "\n"


def _config(config: dict[str, Any]) -> str:
    from anyarch.history.details import CONFIG_TITLES

    rows = []
    for key, title in CONFIG_TITLES.items():
        if key in config:
            text = _text(config[key])
            rows.append([f"{title}:", _size(text) if key in ("Memory", "MemorySwap") else text])
    rows += [[f"{item['Name']}:", item.get("Value", "")] for item in config.get("RestRaw", ())]
    return _table(rows) + "\n"


def _text(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(value)
    return "true" if value is True else str(value)


def _size(text: str) -> str:
    """`512MiB`, of a number of bytes."""
    if not text.isdigit():
        return text
    size, unit = float(text), 0
    while size >= 1024 and unit < len(_UNITS) - 1:
        size, unit = size / 1024, unit + 1
    return f"{size:.4g}{_UNITS[unit]}"
