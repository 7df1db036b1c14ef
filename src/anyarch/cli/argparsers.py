"""The commands as argparse parsers, for tools that read those: shell completion. Command lines are not
parsed by them (`cli.flags` says why)."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

import shtab

from anyarch.cli.dispatch import load
from anyarch.cli.flags import GLOBAL_FLAGS
from anyarch.cli.table import ALIASES, COMMANDS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from anyarch.cli.flags import Command, Flag

__all__ = ["program_parser"]

_CHOICES = {
    "progress": ("auto", "none", "plain", "quiet", "rawjson", "tty"),
    "network": ("default", "host", "none"),
    "pull": ("missing", "always", "never"),
}


def program_parser() -> argparse.ArgumentParser:
    """`anyarch` with all its commands."""
    parser = argparse.ArgumentParser("anyarch", add_help=False)
    _add_flags(parser, GLOBAL_FLAGS)
    parser.add_argument("--version", action="store_true", help="Print the version")
    commands = parser.add_subparsers()
    groups: dict[str, Any] = {}
    for name, (_, summary) in COMMANDS.items():
        command: Command = load(name).COMMAND
        group, _, member = name.rpartition(" ")
        if group and group not in groups:
            groups[group] = commands.add_parser(
                group, help=f"Commands of {group}", add_help=False
            ).add_subparsers()
        place = groups[group] if group else commands
        for spelling in (member, *(alias for alias, target in ALIASES.items() if target == name)):
            _add_command(place.add_parser(spelling, help=summary, add_help=False), command)
    return parser


def _add_command(parser: argparse.ArgumentParser, command: Command) -> None:
    _add_flags(parser, [*(flag for flag in command.flags if not flag.hidden), *GLOBAL_FLAGS])
    if command.name == "completion":
        parser.add_argument("shell", choices=("bash", "zsh", "tcsh"))
    elif command.arguments:
        argument = parser.add_argument("argument", nargs="*", help=command.arguments[0][1])
        if command.name == "build":
            _complete(argument, "directory")


def _add_flags(parser: argparse.ArgumentParser, flags: Iterable[Flag]) -> None:
    for flag in flags:
        names = [f"-{flag.short}", f"--{flag.name}"] if flag.short else [f"--{flag.name}"]
        help = flag.help.replace("%", "%%")
        if flag.is_switch:
            parser.add_argument(*names, action="store_true", help=help)
            continue
        argument = parser.add_argument(
            *names, metavar=flag.metavar, help=help, choices=flag.choices or _CHOICES.get(flag.name)
        )
        if flag.complete:
            _complete(argument, flag.complete)


def _complete(argument: argparse.Action, what: str) -> None:
    # shtab looks for this attribute; argparse has no place for it.
    argument.complete = shtab.FILE if what == "file" else shtab.DIRECTORY  # type: ignore[attr-defined]
