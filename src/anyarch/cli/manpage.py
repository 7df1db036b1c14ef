"""The manual page anyarch(1), made from the tables of the commands.

    python -m anyarch.cli.manpage > docs/man/anyarch.1

A test compares the committed page with what this gives.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from anyarch.cli.dispatch import load
from anyarch.cli.flags import GLOBAL_FLAGS
from anyarch.cli.help import DESCRIPTION, ENVIRONMENT, EXAMPLES, EXIT_STATUS, FILES, flag_text
from anyarch.cli.table import COMMANDS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from anyarch.cli.flags import Command, Flag

__all__ = ["manual_page"]


def manual_page() -> str:
    """The page in man(7) macros; the same text for every run and machine."""
    lines = [
        '.\\" Made by `python -m anyarch.cli.manpage`; do not edit.',
        ".TH ANYARCH 1",
        ".SH NAME",
        "anyarch \\- build one container image for many platforms",
        ".SH SYNOPSIS",
        ".B anyarch",
        "[\\fIOPTIONS\\fR] \\fICOMMAND\\fR [\\fIARGUMENTS\\fR]",
        ".SH DESCRIPTION",
        _text(DESCRIPTION),
        ".SH OPTIONS",
        *_flags(GLOBAL_FLAGS),
        ".SH COMMANDS",
    ]
    for name in COMMANDS:
        lines += _command(load(name).COMMAND)
    lines += [".SH ENVIRONMENT", *_rows(ENVIRONMENT), ".SH FILES", *_rows(FILES)]
    lines += [".SH EXIT STATUS", *_rows(EXIT_STATUS), ".SH EXAMPLES", *_examples(EXAMPLES)]
    lines += [".SH SEE ALSO", "docker\\-buildx\\-build(1), podman(1), skopeo(1)"]
    return "\n".join(lines) + "\n"


def _command(command: Command) -> list[str]:
    lines = [f'.SS "anyarch {_text(command.usage)}"', _text(command.description or f"{command.summary}.")]
    if command.aliases:
        lines += [".PP", _text(f"Also: {', '.join(f'anyarch {name}' for name in command.aliases)}.")]
    lines += _rows(command.arguments)
    lines += _flags(flag for flag in command.flags if not flag.hidden)
    return lines + _examples(command.examples)


def _flags(flags: Iterable[Flag]) -> list[str]:
    lines = []
    for flag in flags:
        names = [f"\\fB\\-{flag.short}\\fR"] if flag.short else []
        names.append(f"\\fB\\-\\-{_text(flag.name)}\\fR")
        value = f" \\fI{_text(flag.metavar)}\\fR" if flag.metavar else ""
        lines += [".TP", f"{', '.join(names)}{value}", _text(f"{flag_text(flag)}.")]
    return lines


def _rows(rows: Iterable[tuple[str, str]]) -> list[str]:
    return [line for left, right in rows for line in (".TP", f"\\fB{_text(left)}\\fR", _text(f"{right}."))]


def _examples(examples: Iterable[tuple[str, str]]) -> list[str]:
    lines = []
    for what, line in examples:
        lines += [".PP", _text(f"{what}:"), ".PP", ".nf", ".RS 4", _text(line), ".RE", ".fi"]
    return lines


def _text(text: str) -> str:
    """`text` with what roff would take as its own escaped."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace('"', "\\(dq")
    return f"\\&{text}" if text.startswith((".", "'")) else text


if __name__ == "__main__":
    sys.stdout.write(manual_page())
