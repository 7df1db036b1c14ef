"""From a command line to the command's module, and from what goes wrong in it to text and exit status."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, TextIO

from anyarch.cli.flags import GLOBAL_FLAGS, BadCommandLine, Command, Flag, parse, suggestion
from anyarch.cli.table import ALIASES, COMMANDS, HIDDEN, LATER
from anyarch.errors import NotSupported

if TYPE_CHECKING:
    from types import ModuleType

    from anyarch.cli.flags import Parsed

__all__ = ["PROGRAM", "dispatch", "load", "stderr"]

PROGRAM = Command(
    "",
    summary="One container image for many platforms, from one command",
    usage="[OPTIONS] COMMAND",
    least=0,
    most=None,
    interspersed=False,
    flags=(Flag("version", "Print the version"),),
)


def stderr() -> TextIO:
    """The error stream; a sink when the process was started without one."""
    if sys.stderr is not None:
        return sys.stderr
    import io

    return io.StringIO()


def load(name: str) -> ModuleType:
    """The module of a command, by its full name."""
    from importlib import import_module

    return import_module((COMMANDS.get(name) or HIDDEN[name])[0])


def dispatch(argv: list[str]) -> int:
    """Run `argv`; every error is answered here, with one exception: a closed standard output goes up."""
    debug = False
    name = ""
    usage_exit_code = 1
    try:
        program = parse(PROGRAM, argv)
        debug = program.switch("debug")
        words = program.args
        if program.switch("version"):
            words = ["version"]
        if words and words[0] == "help":
            words = [*words[1:], "--help"]
        if not words or program.switch("help") or words == ["--help"]:
            return _help(words)
        name, rest = _command(words)
        if not name:
            return _help(words[:1])
        module = load(name)
        command: Command = module.COMMAND
        usage_exit_code = command.usage_exit_code
        parsed = parse(command, rest)
        if parsed.switch("help"):
            return _command_help(command)
        debug = debug or parsed.switch("debug")
        _warn_of_ignored(parsed)
        parsed.debug = debug
        given = parsed.text("builder") or program.text("builder")
        parsed.builder = os.environ.get("BUILDX_BUILDER", "") if given is None else given
        status: int = module.run(parsed)
        return status
    except BrokenPipeError:
        raise
    except BaseException as error:
        from anyarch.cli.errors import report

        found = report(error, stderr(), debug=debug, command=name)
        return usage_exit_code if found == 1 else found


def _command(words: list[str]) -> tuple[str, list[str]]:
    """The full name of the command that `words` begin with, and the words after it; no name for a group
    alone."""
    for count in (3, 2, 1):
        name = " ".join(words[:count])
        name = ALIASES.get(name, name)
        if name in COMMANDS or name in HIDDEN:
            return name, words[count:]
        if name in LATER:
            raise NotSupported(
                f"the command {name} is not supported by this release", hint="it comes in a later release"
            )
    first = words[0]
    members = [name.partition(" ")[2] for name in COMMANDS if name.startswith(f"{first} ")]
    if not members:
        known = sorted({name.partition(" ")[0] for name in COMMANDS})
        raise BadCommandLine(f'unknown command: "{first}"', PROGRAM, hint=suggestion(first, known))
    if len(words) > 1 and not words[1].startswith("-"):
        hint = suggestion(words[1], members) or f"there is {', '.join(members)}"
        raise BadCommandLine(f'unknown command: "{first} {words[1]}"', PROGRAM, hint=hint)
    return "", []


def _help(words: list[str]) -> int:
    from anyarch.cli.help import program_help

    group = words[0] if words and words[0] != "--help" else ""
    print(program_help(group), end="")
    return 0


def _command_help(command: Command) -> int:
    from anyarch.cli.help import command_help

    print(command_help(command), end="")
    return 0


def _warn_of_ignored(parsed: Parsed) -> None:
    """Warn of flags that do nothing, as buildx does."""
    flags = {flag.name: flag for flag in (*parsed.command.flags, *GLOBAL_FLAGS)}
    for name in parsed.given:
        flag = flags[name]
        if flag.state == "ignored" and flag.warning:
            print(f"WARNING: {flag.warning}", file=stderr())
