"""What a finished build leaves beside the image: id and metadata files, warnings, a table of what was
made."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Any

from anyarch.cli.dispatch import stderr
from anyarch.cli.errors import excerpt
from anyarch.errors import OutputError, SourceRange
from anyarch.progress.trace import clean_name, format_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anyarch.cli.flags import Parsed
    from anyarch.engine.request import BuildResult
    from anyarch.progress.trace import Trace
    from anyarch.solver.events import WarningEvent

__all__ = [
    "details_text",
    "emulation_text",
    "format_seconds",
    "metadata",
    "remove_iidfile",
    "summary",
    "warnings_text",
    "write_file",
    "write_results",
]

LEAST_EMULATED_S = 0.05
"""Seconds; less is not worth a line."""


def remove_iidfile(parsed: Parsed) -> None:
    """Remove an old image id file, so that a failed build leaves no stale one."""
    path = parsed.text("iidfile")
    if path and os.path.isfile(path):
        try:
            os.remove(path)
        except OSError as error:
            raise OutputError(f"removing image ID file: {error.strerror}: {path}") from None


def write_results(parsed: Parsed, result: BuildResult, trace: Trace, mode: str, *, prints_id: bool) -> None:
    """Write and print all that was asked for. Raises `OutputError`."""
    iidfile = parsed.text("iidfile")
    if iidfile:
        write_file(iidfile, (result.image_id or "").encode(), what="image ID file")
    metadata_file = parsed.text("metadata-file")
    if metadata_file:
        import msgspec

        wants_warnings = os.environ.get("BUILDX_METADATA_WARNINGS", "") in ("1", "true")
        values = metadata(result, trace.warnings if wants_warnings else ())
        text = msgspec.json.format(msgspec.json.encode(values, order="sorted", enc_hook=str), indent=2)
        write_file(metadata_file, text, what="metadata file")
    if mode in ("plain", "tty"):
        told = warnings_text(trace.warnings, expand=parsed.debug) + summary(result) + emulation_text(result)
        stderr().write(told)
    if mode not in ("rawjson", "quiet"):
        stderr().write(details_text(result.metadata.get("buildx.build.ref"), os.environ))
    if prints_id and result.image_id:
        print(result.image_id)


def details_text(ref: str | None, env: Mapping[str, str], *, is_terminal: bool | None = None) -> str:
    """Where Docker Desktop shows a build, as buildx says it: only where Docker Desktop has been used."""
    mark = os.path.join(env.get("HOME", ""), ".docker", "desktop-build", ".lastaccess")
    if not ref or not env.get("HOME") or not os.path.exists(mark):
        return ""
    url = f"docker-desktop://dashboard/build/{ref}"
    if stderr().isatty() if is_terminal is None else is_terminal:
        url = f"\x1b]8;;{url}\x1b\\{url}\x1b]8;;\x1b\\"
    return f"\nView build details: {url}\n"


def metadata(result: BuildResult, warnings: Sequence[WarningEvent] = ()) -> dict[str, Any]:
    """The object of `--metadata-file`, with buildx's keys."""
    values: dict[str, Any] = {name: _shown(name, value) for name, value in result.metadata.items()}
    if result.digest:
        values["containerimage.digest"] = result.digest
    if result.config_digest:
        values["containerimage.config.digest"] = result.config_digest
    if result.descriptor is not None:
        values["containerimage.descriptor"] = result.descriptor
    if result.image_names:
        values["image.name"] = ",".join(result.image_names)
    if warnings:
        from anyarch.progress.rawjson import warning_values

        values["buildx.build.warnings"] = [warning_values(warning) for warning in warnings]
    return values


def _shown(name: str, value: Any) -> Any:
    """A value as buildx has it: JSON objects and lists of them, which come as texts, as such."""
    import base64
    import binascii

    import msgspec

    if not isinstance(value, str):
        return value
    try:
        raw = value.encode() if name == "result.json" else base64.b64decode(value, validate=True)
        found = msgspec.json.decode(raw)
    except (ValueError, binascii.Error):
        return value
    is_list = isinstance(found, list) and all(isinstance(item, dict) for item in found)
    return found if found and (isinstance(found, dict) or is_list) else value


def write_file(path: str, content: bytes, *, what: str) -> None:
    """Write a file so that a reader sees the old one or the complete new one; into a device or pipe
    directly."""
    try:
        try:
            is_plain = stat.S_ISREG(os.stat(path).st_mode)
        except FileNotFoundError:
            is_plain = True
        if not is_plain:
            with open(path, "wb") as file:
                file.write(content)
            return
        path = os.path.realpath(path)  # the file behind a symbolic link, not the link, is replaced
        directory, name = os.path.split(path)
        temporary = os.path.join(directory, f".{name}.{os.getpid()}.tmp")
        try:
            with open(temporary, "wb") as file:
                file.write(content)
            os.replace(temporary, path)
        except BaseException:
            if os.path.exists(temporary):
                os.remove(temporary)
            raise
    except OSError as error:
        raise OutputError(
            f"writing {what}: {error.strerror}: {path}",
            hint="the image itself was built; only this file is missing",
        ) from None


def warnings_text(warnings: Sequence[WarningEvent], *, expand: bool) -> str:
    """The list of warnings; with `expand` each with its explanation and its lines of the Dockerfile."""
    if not warnings:
        return ""
    count = f"{len(warnings)} warnings found" if len(warnings) > 1 else "1 warning found"
    lines = ["", f" {count}{'' if expand else ' (use anyarch --debug to expand)'}:"]
    for warning in warnings:
        lines.append(f" - {warning.short}")
        if not expand:
            continue
        lines += warning.detail
        if warning.url:
            lines.append(f"More info: {warning.url}")
        if warning.lines and warning.filename:
            start, end = warning.lines[0]
            lines.append(excerpt(SourceRange(warning.filename, start, end, data=warning.source)).rstrip("\n"))
        lines.append("")
    return "\n".join(lines) + "\n"


def emulation_text(result: BuildResult) -> str:
    """What emulation cost, and which stages need not pay it."""
    if result.emulated_s < LEAST_EMULATED_S:
        return ""
    text = f"\n {format_seconds(result.emulated_s)} were spent in emulated steps\n"
    for stage in result.movable_stages:
        text += (
            f" stage {stage} reads nothing of its platform, and only data is copied from it: with "
            "FROM --platform=$BUILDPLATFORM it would run natively, once for all platforms\n"
        )
    return text


def format_seconds(seconds: float) -> str:
    """`0.4s`, `75.0s`, `12m 05s`."""
    if seconds < 120:
        return f"{seconds:.1f}s"
    return f"{int(seconds) // 60}m {int(seconds) % 60:02}s"


def summary(result: BuildResult) -> str:
    """What was made: one row a platform when an image was, then its digest and names."""
    if result.digest is None:
        return ""
    rows = [("PLATFORM", "DIGEST", "SIZE", "")]
    rows += [
        (
            made.platform,
            made.digest,
            format_bytes(made.size) if made.size else "",
            "failed, left out" if made.error else made.route,
        )
        for made in result.platforms
    ]
    lines = [""]
    if len(rows) > 2 or (len(rows) == 2 and rows[1][1]):
        widths = [max(len(row[column]) for row in rows) for column in range(4)]
        for row in rows:
            cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
            lines.append(" " + "  ".join(cells).rstrip())
    if len(result.platforms) > 1 or not result.platforms:
        lines.append(f" {'index' if len(result.platforms) > 1 else 'image'} {result.digest}")
    lines += [f" named {clean_name(name)}" for name in result.image_names]
    return "\n".join(lines) + "\n"
