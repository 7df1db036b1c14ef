"""`--help`, made from the tables of the commands. The sections that are not about flags are here as text;
the manual page (`cli.manpage`) has the same."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from anyarch.cli.flags import GLOBAL_FLAGS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from anyarch.cli.flags import Command, Flag

__all__ = [
    "DESCRIPTION",
    "ENVIRONMENT",
    "EXAMPLES",
    "EXIT_STATUS",
    "FILES",
    "command_help",
    "flag_names",
    "flag_text",
    "program_help",
]

DESCRIPTION = (
    "anyarch builds one container image for many platforms: a Dockerfile and a list of platforms go in, one "
    "image index comes out. Steps for a foreign platform run emulated, or natively where the Dockerfile "
    "cross-compiles. Everything happens in this process; no daemon is needed. Flags and Dockerfiles "
    "are those "
    "of docker buildx."
)

EXAMPLES = (
    (
        "Build for two platforms into an OCI archive",
        "anyarch build --platform linux/amd64,linux/arm64 -o type=oci,dest=app.tar .",
    ),
    (
        "Build and push",
        "anyarch build --platform linux/amd64,linux/arm64 -t registry.example.com/app:1 --push .",
    ),
    (
        "Run the image of a foreign platform",
        "anyarch run --platform linux/arm64 registry.example.com/app:1 uname -m",
    ),
    ("Look at what was pushed", "anyarch imagetools inspect registry.example.com/app:1"),
)

ENVIRONMENT = (
    ("ANYARCH_ROOT", "directory of the store"),
    ("ANYARCH_CONFIG", "configuration file (registry mirrors, plain HTTP, certificates)"),
    ("ANYARCH_REGISTRY_MIRRORS", "mirrors in short: docker.io=localhost:5000"),
    ("ANYARCH_QEMU_DIR", "where to look first for static QEMU emulators"),
    ("ANYARCH_FRONTEND", "image: run the frontend that # syntax= names, Docker's own too"),
    ("DOCKER_CONFIG", "directory of Docker's config.json: credentials and proxies"),
    ("DOCKER_CONTEXT, DOCKER_HOST", "the docker context in use; an engine's address, which goes before it"),
    ("BUILDX_BUILDER", "builder when --builder is not given"),
    ("BUILDX_CONFIG", "where builders are kept, instead of buildx in Docker's directory"),
    ("BUILDKIT_HOST", "endpoint of a builder that is created without one"),
    ("KUBECONFIG", "the cluster of builders with the driver kubernetes"),
    ("BUILDX_GIT_LABELS, BUILDX_GIT_CHECK_DIRTY", "1: labels with the git repository's revision and source"),
    ("DOCKER_DEFAULT_PLATFORM", "platform when --platform is not given"),
    ("BUILDKIT_PROGRESS", "default of --progress"),
    ("BUILDKIT_TTY_LOG_LINES", "log lines shown under a running step on a terminal (6)"),
    ("BUILDKIT_COLORS, NO_COLOR", "colours on a terminal; NO_COLOR switches them off"),
    ("BUILDX_NO_DEFAULT_LOAD", "1: no warning when a build has no output"),
    ("BUILDX_METADATA_PROVENANCE", "provenance in the metadata file: min (default), max, disabled"),
    ("BUILDX_METADATA_WARNINGS", "1: warnings go into the metadata file too"),
    ("BUILDX_NO_DEFAULT_ATTESTATIONS", "1: images that are pushed get no provenance unasked"),
    ("SOURCE_DATE_EPOCH", "given to the build as a build argument"),
    ("HTTP_PROXY, HTTPS_PROXY, NO_PROXY", "proxies for registries"),
)

FILES = (
    ("$XDG_DATA_HOME/anyarch, ~/.local/share/anyarch", "the store, unless ANYARCH_ROOT says otherwise"),
    ("$XDG_CONFIG_HOME/anyarch/config.toml", "configuration, unless ANYARCH_CONFIG says otherwise"),
    ("~/.docker/config.json", "credentials and proxies of Docker's tools"),
)

EXIT_STATUS = (
    ("0", "done"),
    ("1", "the build or command failed, or the command line was wrong"),
    ("70", "an error in anyarch itself"),
    (
        "125, 126, 127",
        "anyarch run: could not start, not executable, not found; else the program's own status",
    ),
    ("130", "stopped by Ctrl-C or SIGTERM"),
)


def program_help(group: str = "") -> str:
    """The text of `anyarch --help`, or of a group of commands (`imagetools`)."""
    from anyarch.cli.table import COMMANDS

    commands = [
        (name, summary)
        for name, (_, summary) in COMMANDS.items()
        if not group or name.startswith(f"{group} ")
    ]
    where = f"anyarch {group}" if group else "anyarch"
    parts = [f"Usage:  {where} [OPTIONS] COMMAND\n", _paragraph(DESCRIPTION), _section("Commands", commands)]
    if not group:
        parts.append(_section("Options", [*_flag_rows(GLOBAL_FLAGS), ("    --version", "Print the version")]))
        parts.append(_examples(EXAMPLES))
        parts.append(_section("Environment", ENVIRONMENT))
        parts.append(_section("Files", FILES))
        parts.append(_section("Exit status", EXIT_STATUS))
    parts.append(f"Run '{where} COMMAND --help' for more about a command.\n")
    return "\n".join(parts)


def command_help(command: Command) -> str:
    """The text of `anyarch COMMAND --help`."""
    parts = [f"Usage:  anyarch {command.usage}\n", _paragraph(command.description or f"{command.summary}.")]
    if command.aliases:
        names = [command.name, *command.aliases]
        parts.append("Aliases:\n  " + ", ".join(f"anyarch {name}" for name in names) + "\n")
    if command.arguments:
        parts.append(_section("Arguments", command.arguments))
    shown = [flag for flag in command.flags if not flag.hidden]
    if shown:
        parts.append(_section("Options", _flag_rows(shown)))
    parts.append(_section("Global options", _flag_rows(GLOBAL_FLAGS)))
    if command.examples:
        parts.append(_examples(command.examples))
    return "\n".join(parts)


def flag_names(flag: Flag) -> str:
    """`-t, --tag NAME`"""
    names = f"-{flag.short}, --{flag.name}" if flag.short else f"    --{flag.name}"
    return f"{names} {flag.metavar}" if flag.metavar else names


def flag_text(flag: Flag) -> str:
    """The explanation of a flag, with its choices and whether it may be repeated."""
    text = flag.help
    if flag.choices:
        text += f" ({', '.join(flag.choices)})"
    return f"{text} (repeatable)" if flag.repeat else text


def _flag_rows(flags: Iterable[Flag]) -> list[tuple[str, str]]:
    return [(flag_names(flag), flag_text(flag)) for flag in flags]


def _width() -> int:
    """Columns to write for: the terminal's, within what reads well."""
    try:
        columns = int(os.environ.get("COLUMNS", "")) or os.get_terminal_size(1).columns
    except (OSError, ValueError):
        columns = 100
    return max(60, min(columns, 110)) - 2


def _paragraph(text: str) -> str:
    return "\n".join(_wrap(text, _width())) + "\n"


def _wrap(text: str, width: int) -> list[str]:
    lines, line = [], ""
    for word in text.split():
        if line and len(line) + 1 + len(word) > width:
            lines.append(line)
            line = word
        else:
            line = f"{line} {word}" if line else word
    return [*lines, line]


def _section(title: str, rows: Sequence[tuple[str, str]]) -> str:
    column = min(max((len(left) for left, _ in rows), default=0), 34) + 4
    lines = [f"{title}:"]
    for left, right in rows:
        texts = _wrap(right, max(_width() - column, 30))
        first = f"  {left}".ljust(column)
        if len(first) > column or not first.endswith(" "):
            lines.append(first)
            first = " " * column
        lines.append(f"{first}{texts[0]}".rstrip())
        lines += [" " * column + text for text in texts[1:]]
    return "\n".join(lines) + "\n"


def _examples(examples: Sequence[tuple[str, str]]) -> str:
    return "\n".join(["Examples:", *(f"  {what}:\n      {line}" for what, line in examples)]) + "\n"
