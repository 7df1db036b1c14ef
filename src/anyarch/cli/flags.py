"""What a command accepts, as a table, and the parser that reads a command line by it.

The rules are those of Docker's tools (Go's pflag), since the same command lines have to mean the same here:
`--flag value`, `--flag=value`, switches that take `=false`, clusters of short flags (`-qt name`), values
that begin with a dash, flags after arguments unless the command says otherwise. argparse gets several of
these wrong and costs a cached build 6 ms more, so it is only made from these tables (`cli.argparsers`)
where another tool wants one: completion.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from anyarch.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["GLOBAL_FLAGS", "BadCommandLine", "Command", "Flag", "Parsed", "parse", "parse_bool", "suggestion"]

_TRUE = frozenset(("1", "t", "T", "TRUE", "true", "True"))
_FALSE = frozenset(("0", "f", "F", "FALSE", "false", "False"))


class Flag:
    """One flag of a command.

    `metavar` names its value; a flag without one is a switch. `repeat` flags gather their values, the
    others keep the last. `state` is done or ignored (accepted; `warning` is printed if there is one).
    `complete` is file or directory for shell completion.
    """

    __slots__ = (
        "choices",
        "complete",
        "help",
        "hidden",
        "metavar",
        "name",
        "repeat",
        "short",
        "state",
        "warning",
    )

    def __init__(
        self,
        name: str,
        help: str,
        *,
        short: str = "",
        metavar: str = "",
        repeat: bool = False,
        hidden: bool = False,
        choices: tuple[str, ...] = (),
        complete: str = "",
        state: str = "done",
        warning: str = "",
    ) -> None:
        self.name = name
        self.help = help
        self.short = short
        self.metavar = metavar
        self.repeat = repeat
        self.hidden = hidden
        self.choices = choices
        self.complete = complete
        self.state = state
        self.warning = warning

    @property
    def is_switch(self) -> bool:
        return not self.metavar


class Command:
    """One command: its flags, how many arguments it takes (`most` None: any number), and its texts.

    `usage` is what follows the program's name. With `interspersed` false the first argument ends the flags,
    as for `run`, whose later words belong to the program. `arguments` pairs each argument with its
    explanation.
    """

    __slots__ = (
        "aliases",
        "arguments",
        "description",
        "examples",
        "flags",
        "interspersed",
        "least",
        "most",
        "name",
        "summary",
        "usage",
        "usage_exit_code",
    )

    def __init__(
        self,
        name: str,
        *,
        summary: str,
        usage: str,
        description: str = "",
        aliases: tuple[str, ...] = (),
        arguments: tuple[tuple[str, str], ...] = (),
        flags: tuple[Flag, ...] = (),
        examples: tuple[tuple[str, str], ...] = (),
        least: int = 0,
        most: int | None = 0,
        interspersed: bool = True,
        usage_exit_code: int = 1,
    ) -> None:
        self.name = name
        self.summary = summary
        self.usage = usage
        self.description = description
        self.aliases = aliases
        self.arguments = arguments
        self.flags = flags
        self.examples = examples
        self.least = least
        self.most = most
        self.interspersed = interspersed
        self.usage_exit_code = usage_exit_code


GLOBAL_FLAGS = (
    Flag("builder", "Builder instance to use; default is the engine in this process", metavar="NAME"),
    Flag("debug", "Show more when something goes wrong", short="D"),
    Flag("help", "Print this text", short="h"),
)


class BadCommandLine(UsageError):
    """A command line that cannot be read; the usage line of `command` is shown with it."""

    def __init__(self, message: str, command: Command, *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.command = command
        self.exit_code = command.usage_exit_code


class Parsed:
    """The values of one command line. `given` holds the names of the flags that were there, in order; `debug`
    whether `--debug` was given, before or after the command; `builder` the name that `--builder` or
    BUILDX_BUILDER has, or nothing."""

    __slots__ = ("_values", "args", "builder", "command", "debug", "given")

    def __init__(self, command: Command) -> None:
        self.command = command
        self.args: list[str] = []
        self.given: list[str] = []
        self.debug = False
        self.builder = ""
        self._values: dict[str, list[str]] = {}

    def set(self, flag: Flag, value: str) -> None:
        if flag.name not in self._values:
            self.given.append(flag.name)
        if flag.repeat:
            self._values.setdefault(flag.name, []).append(value)
        else:
            self._values[flag.name] = [value]

    def text(self, name: str) -> str | None:
        """The (last) value, None when the flag was not given."""
        values = self._values.get(name)
        return values[-1] if values else None

    def texts(self, name: str) -> list[str]:
        """All values of a `repeat` flag."""
        return list(self._values.get(name, ()))

    def switch(self, name: str) -> bool:
        return self._values.get(name) == ["true"]


def parse_bool(text: str) -> bool | None:
    """Go's spellings of a truth value; None for anything else."""
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    return None


def suggestion(word: str, known: Sequence[str], *, prefix: str = "") -> str | None:
    """A hint that names what the user may have meant."""
    from difflib import get_close_matches

    close = get_close_matches(word, known, n=1, cutoff=0.6)
    return f"did you mean {prefix}{close[0]}?" if close else None


def parse(command: Command, argv: Sequence[str]) -> Parsed:
    """Read `argv` (without the command's name). Raises `BadCommandLine`.

    When help is asked for, counts and values are not checked: the caller looks at `switch("help")` first.
    """
    parsed = Parsed(command)
    flags = (*command.flags, *GLOBAL_FLAGS)
    longs = {flag.name: flag for flag in flags}
    shorts = {flag.short: flag for flag in flags if flag.short}
    words = iter(argv)
    for word in words:
        if word == "--":
            parsed.args.extend(words)
        elif word.startswith("--"):
            _long(parsed, word, words, longs)
        elif word.startswith("-") and len(word) > 1:
            _cluster(parsed, word, words, shorts)
        else:
            parsed.args.append(word)
            if not command.interspersed:
                parsed.args.extend(words)
    if not parsed.switch("help"):
        _check_count(parsed)
    return parsed


def _long(parsed: Parsed, word: str, words: Iterator[str], longs: dict[str, Flag]) -> None:
    name, equals, value = word[2:].partition("=")
    if not name or name.startswith("-"):
        raise BadCommandLine(f"bad flag syntax: {word}", parsed.command)
    flag = longs.get(name)
    if flag is None:
        known = [flag.name for flag in longs.values() if not flag.hidden]
        raise BadCommandLine(
            f"unknown flag: --{name}", parsed.command, hint=suggestion(name, known, prefix="--")
        )
    if flag.is_switch:
        _set_switch(parsed, flag, value if equals else "true", shown=f"--{name}")
    elif equals:
        _set_value(parsed, flag, value)
    else:
        _set_value(parsed, flag, _next(parsed, words, f"flag needs an argument: --{name}"))


def _cluster(parsed: Parsed, word: str, words: Iterator[str], shorts: dict[str, Flag]) -> None:
    rest = word[1:]
    while rest:
        letter, rest = rest[0], rest[1:]
        flag = shorts.get(letter)
        if flag is None:
            raise BadCommandLine(f"unknown shorthand flag: {letter!r} in {word}", parsed.command)
        if flag.is_switch:
            if rest.startswith("="):
                _set_switch(parsed, flag, rest[1:], shown=f"-{letter}, --{flag.name}")
                return
            _set_switch(parsed, flag, "true", shown="")
        elif rest:
            _set_value(parsed, flag, rest.removeprefix("="))
            return
        else:
            _set_value(parsed, flag, _next(parsed, words, f"flag needs an argument: {letter!r} in {word}"))


def _next(parsed: Parsed, words: Iterator[str], complaint: str) -> str:
    for word in words:
        return word
    raise BadCommandLine(complaint, parsed.command)


def _set_switch(parsed: Parsed, flag: Flag, value: str, *, shown: str) -> None:
    truth = parse_bool(value)
    if truth is None:
        raise BadCommandLine(
            f'invalid argument "{value}" for "{shown}" flag: strconv.ParseBool: parsing "{value}": '
            "invalid syntax",
            parsed.command,
            hint=f"write --{flag.name} for true, or --{flag.name}=false",
        )
    parsed.set(flag, "true" if truth else "false")


def _set_value(parsed: Parsed, flag: Flag, value: str) -> None:
    if flag.choices and value not in flag.choices:
        raise BadCommandLine(
            f'invalid argument "{value}" for "--{flag.name}" flag',
            parsed.command,
            hint=f"it is one of {', '.join(flag.choices)}",
        )
    parsed.set(flag, value)


def _check_count(parsed: Parsed) -> None:
    command, count = parsed.command, len(parsed.args)
    least, most = command.least, command.most
    if count >= least and (most is None or count <= most):
        return
    if most == 0:
        wanted = "accepts no arguments"
    elif most is None:
        wanted = f"requires at least {least} argument{'s' * (least != 1)}"
    elif least == most:
        wanted = f"requires {least} argument{'s' * (least != 1)}"
    else:
        wanted = f"requires {least} to {most} arguments"
    hint = None
    if count > least and most is not None:
        extra = parsed.args[most]
        hint = f"{extra!r} is one too many" + ("; quote values with spaces" if " " not in extra else "")
    elif count < least and command.name == "build":
        hint = "the build context is missing; for the current directory add a dot: anyarch build ."
    raise BadCommandLine(f"'anyarch {command.name}' {wanted}", command, hint=hint)
