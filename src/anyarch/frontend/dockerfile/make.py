"""The makers: from the cut words of a statement to the struct of its instruction, one function each."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, TypedDict

import msgspec

from anyarch.errors import DockerfileError

from .flags import Flags
from .gotext import BLANKS, parse_duration, parse_int, quote
from .heredoc import chomp_tabs, parse_heredoc
from .instructions import (
    Add,
    Arg,
    ArgDefinition,
    Cmd,
    Copy,
    Entrypoint,
    Env,
    Expose,
    Healthcheck,
    Heredoc,
    InlineFile,
    KeyValue,
    Label,
    Maintainer,
    Onbuild,
    Run,
    Shell,
    Stage,
    StopSignal,
    User,
    Volume,
    Workdir,
)
from .mount import parse_device, parse_mount
from .words import quoted_words, word_list

if TYPE_CHECKING:
    from collections.abc import Callable

    from .instructions import (
        Instruction,
    )

__all__ = ["HEREDOC_KEYWORDS", "KEYWORDS", "MAKERS", "Words", "make_stage"]

HEREDOC_KEYWORDS = frozenset(("run", "copy", "add"))
_STAGE_NAME = r"[a-z][a-z0-9_.-]*"
_ONBUILD = r"(?i)^[\t\n\f\r ]*ONBUILD[\t\n\f\r ]*"
_MILLISECOND = 1_000_000

_RUN_FLAGS = {"mount": "strings", "network": "string", "security": "string", "device": "strings"}
_COPY_FLAGS = {
    "chown": "string",
    "from": "string",
    "chmod": "string",
    "link": "bool",
    "exclude": "strings",
    "parents": "bool",
}
_ADD_FLAGS = {
    "chown": "string",
    "chmod": "string",
    "link": "bool",
    "keep-git-dir": "bool",
    "checksum": "string",
    "unpack": "bool",
    "exclude": "strings",
}
_HEALTH_FLAGS = {
    "interval": "string",
    "timeout": "string",
    "start-period": "string",
    "start-interval": "string",
    "retries": "string",
}
_NO_FLAGS: dict[str, str] = {}


class _Shared(TypedDict):
    keyword: str
    original: str
    lines: tuple[int, int]
    comments: tuple[str, ...]


class Words(msgspec.Struct):
    """A statement cut into its parts.

    `rest` is the text behind the flags; `array` its strings if it is a JSON array; `pairs` those of ENV and
    LABEL; `trigger` the cut instruction of ONBUILD; `tail` what stands behind the type word of HEALTHCHECK.
    """

    keyword: str
    flags: list[str]
    rest: str
    escape: str
    array: list[str] | None = None
    pairs: list[KeyValue] = []
    trigger: Words | None = None
    tail: str = ""
    original: str = ""
    lines: tuple[int, int] = (0, 0)
    comments: tuple[str, ...] = ()
    heredocs: tuple[Heredoc, ...] = ()

    def take_flags(self, kinds: dict[str, str]) -> Flags:
        return Flags(self.flags, kinds)

    def one(self) -> str:
        """The argument of an instruction that has exactly one."""
        if not self.rest:
            raise DockerfileError(f"{self.keyword.upper()} requires exactly one argument")
        return self.rest

    def some(self, arguments: list[str]) -> list[str]:
        if not arguments:
            raise DockerfileError(f"{self.keyword.upper()} requires at least one argument")
        return arguments

    def command(self) -> tuple[str, ...]:
        """The JSON array, else the text as one string, else nothing."""
        if self.array is not None:
            return tuple(self.array)
        return (self.rest,) if self.rest else ()


def _shared(words: Words) -> _Shared:
    return {
        "keyword": words.keyword,
        "original": words.original.strip(BLANKS),
        "lines": words.lines,
        "comments": words.comments,
    }


def make_stage(words: Words) -> Stage:
    arguments = word_list(words.rest)
    name = ""
    if len(arguments) == 3 and arguments[1].lower() == "as":
        name = arguments[2].lower()
        if not re.fullmatch(_STAGE_NAME, name):
            problem = f"invalid name for build stage: {quote(arguments[2])}"
            raise DockerfileError(f"{problem}, name can't start with a number or contain symbols")
    elif len(arguments) != 1:
        raise DockerfileError("FROM requires either one or three arguments")
    flags = words.take_flags({"platform": "string"})
    return Stage(
        name=name,
        base_name=arguments[0],
        platform=flags.text("platform"),
        keyword=words.keyword,
        original=words.original.strip(BLANKS),
        lines=words.lines,
        name_text=arguments[2] if name else "",
        as_keyword=arguments[1] if name else "",
        comments=words.comments,
        comment=_documentation(words.comments, name),
    )


def _documentation(comments: tuple[str, ...], name: str) -> str:
    """The text of the first comment line that starts with the name it documents."""
    if name:
        for comment in comments:
            if comment.startswith(name + " "):
                return comment[len(name) + 1 :]
    return ""


def _arg(words: Words) -> Instruction:
    definitions = []
    for word in words.some(quoted_words(words.rest, words.escape)):
        key, equals, value = word.partition("=")
        if equals and not key:
            raise DockerfileError("ARG names can not be blank")
        definitions.append(ArgDefinition(key, value if equals else None, _documentation(words.comments, key)))
    return Arg(args=tuple(definitions), **_shared(words))


def _env(words: Words) -> Instruction:
    return Env(pairs=_pairs(words), **_shared(words))


def _label(words: Words) -> Instruction:
    return Label(pairs=_pairs(words), **_shared(words))


def _pairs(words: Words) -> tuple[KeyValue, ...]:
    words.take_flags(_NO_FLAGS)
    if not words.pairs:
        raise DockerfileError(f"{words.keyword.upper()} requires at least one argument")
    if any(not pair.key for pair in words.pairs):
        raise DockerfileError(f"{words.keyword.upper()} names can not be blank")
    return tuple(words.pairs)


def _maintainer(words: Words) -> Instruction:
    text = words.one()
    words.take_flags(_NO_FLAGS)
    return Maintainer(text=text, **_shared(words))


def _run(words: Words) -> Instruction:
    flags = words.take_flags(_RUN_FLAGS)
    devices = tuple(parse_device(text) for text in flags.texts("device"))
    mounts = tuple(parse_mount(text) for text in flags.texts("mount"))
    network = flags.text("network", "default")
    if network not in ("default", "none", "host"):
        raise DockerfileError(f"invalid network mode {quote(network)}")
    security = flags.text("security", "sandbox")
    if security not in ("sandbox", "insecure"):
        raise DockerfileError(f"security {quote(security)} is not valid")
    return Run(
        cmdline=words.command(),
        prepend_shell=words.array is None,
        heredocs=words.heredocs,
        mounts=mounts,
        network=network,
        security=security,
        devices=devices,
        flags_used=frozenset(flags.values),
        **_shared(words),
    )


def _cmd(words: Words) -> Instruction:
    words.take_flags(_NO_FLAGS)
    return Cmd(cmdline=words.command(), prepend_shell=words.array is None, **_shared(words))


def _entrypoint(words: Words) -> Instruction:
    words.take_flags(_NO_FLAGS)
    return Entrypoint(cmdline=words.command(), prepend_shell=words.array is None, **_shared(words))


def _shell(words: Words) -> Instruction:
    words.take_flags(_NO_FLAGS)
    shell = words.some(list(words.command()))
    if words.array is None:
        raise DockerfileError("SHELL requires the arguments to be in JSON form")
    return Shell(shell=tuple(shell), **_shared(words))


def _healthcheck(words: Words) -> Instruction:
    kind = words.some(word_list(words.rest))[0].upper()
    command = tuple(words.array) if words.array is not None else (words.tail,) if words.tail else ()
    if kind == "NONE":
        if command:
            raise DockerfileError("HEALTHCHECK NONE takes no arguments")
        return Healthcheck(test=("NONE",), **_shared(words))
    flags = words.take_flags(_HEALTH_FLAGS)
    if kind != "CMD":
        raise DockerfileError(f"Unknown type {quote(kind)} in HEALTHCHECK (try CMD)")
    if not command:
        raise DockerfileError("Missing command after HEALTHCHECK CMD")
    interval, timeout, start_period, start_interval = (
        _interval(flags, name) for name in ("interval", "timeout", "start-period", "start-interval")
    )
    text = flags.text("retries")
    retries = parse_int(text, 32) if text else 0
    if retries < 0:
        raise DockerfileError(f"--retries cannot be negative ({retries})")
    return Healthcheck(
        test=("CMD-SHELL" if words.array is None else "CMD", *command),
        interval=interval,
        timeout=timeout,
        start_period=start_period,
        start_interval=start_interval,
        retries=retries,
        **_shared(words),
    )


def _interval(flags: Flags, name: str) -> int:
    text = flags.text(name)
    duration = parse_duration(text) if text else 0
    if duration and duration < _MILLISECOND:
        raise DockerfileError(f"Interval {quote(name)} cannot be less than 1ms")
    return duration


def _copy(words: Words) -> Instruction:
    arguments = _sources_and_dest(words)
    flags = words.take_flags(_COPY_FLAGS)
    sources, files, dest = _split_sources(words, arguments)
    return Copy(
        sources=sources,
        files=files,
        dest=dest,
        from_=flags.text("from"),
        chown=flags.text("chown"),
        chmod=flags.text("chmod"),
        link=flags.truth("link"),
        parents=flags.truth("parents"),
        exclude=flags.texts("exclude"),
        **_shared(words),
    )


def _add(words: Words) -> Instruction:
    arguments = _sources_and_dest(words)
    flags = words.take_flags(_ADD_FLAGS)
    sources, files, dest = _split_sources(words, arguments)
    return Add(
        sources=sources,
        files=files,
        dest=dest,
        chown=flags.text("chown"),
        chmod=flags.text("chmod"),
        link=flags.truth("link"),
        exclude=flags.texts("exclude"),
        checksum=flags.text("checksum"),
        keep_git_dir=flags.truth_or_none("keep-git-dir"),
        unpack=flags.truth_or_none("unpack"),
        **_shared(words),
    )


def _sources_and_dest(words: Words) -> list[str]:
    if words.array is not None:
        arguments = words.array
    else:
        arguments = []
        for word in word_list(words.rest):
            # `<< WORD` announces a here-document as `<<WORD` does.
            if words.heredocs and arguments and re.fullmatch("[0-9]*<<", arguments[-1]):
                arguments[-1] += word
            else:
                arguments.append(word)
    if len(arguments) < 2:
        problem = "requires at least two arguments, but only one was provided"
        raise DockerfileError(f"{words.keyword.upper()} {problem}. Destination could not be determined")
    return arguments


def _split_sources(words: Words, arguments: list[str]) -> tuple[tuple[str, ...], tuple[InlineFile, ...], str]:
    """Sources that are paths, those that are here-documents, and the destination."""
    *sources, dest = arguments
    if _announcement(dest) is not None:
        raise DockerfileError(f"{words.keyword.upper()} cannot accept a heredoc as a destination")
    contents = {heredoc.name: heredoc.content for heredoc in words.heredocs}
    paths: list[str] = []
    files: list[InlineFile] = []
    for source in sources:
        heredoc = _announcement(source)
        if heredoc is None:
            paths.append(source)
        else:
            content = contents.get(heredoc.name, "")
            data = chomp_tabs(content) if heredoc.chomp else content
            files.append(InlineFile(heredoc.name, data, heredoc.expand))
    return tuple(paths), tuple(files), dest


def _announcement(word: str) -> Heredoc | None:
    try:
        return parse_heredoc(word) if "<<" in word else None
    except DockerfileError:
        return None


def _onbuild(words: Words) -> Instruction:
    trigger = words.trigger
    if trigger is None:
        raise DockerfileError("ONBUILD requires at least one argument")
    words.take_flags(_NO_FLAGS)
    keyword = trigger.keyword.upper()
    if keyword == "ONBUILD":
        raise DockerfileError("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed")
    if keyword in ("MAINTAINER", "FROM"):
        raise DockerfileError(f"{keyword} isn't allowed as an ONBUILD trigger")
    expression = re.sub(_ONBUILD, "", words.original)
    for heredoc in words.heredocs:
        expression += f"\n{heredoc.content}{heredoc.name}"
    return Onbuild(expression=expression, **_shared(words))


def _workdir(words: Words) -> Instruction:
    path = words.one()
    words.take_flags(_NO_FLAGS)
    return Workdir(path=path, **_shared(words))


def _user(words: Words) -> Instruction:
    user = words.one()
    words.take_flags(_NO_FLAGS)
    return User(user=user, **_shared(words))


def _volume(words: Words) -> Instruction:
    arguments = word_list(words.rest) if words.array is None else words.array
    words.some(arguments)
    words.take_flags(_NO_FLAGS)
    volumes = tuple(argument.strip(BLANKS) for argument in arguments)
    if "" in volumes:
        raise DockerfileError("VOLUME specified can not be an empty string")
    return Volume(volumes=volumes, **_shared(words))


def _expose(words: Words) -> Instruction:
    ports = words.some(word_list(words.rest))
    words.take_flags(_NO_FLAGS)
    return Expose(ports=tuple(sorted(ports)), **_shared(words))


def _stop_signal(words: Words) -> Instruction:
    return StopSignal(signal=words.one(), **_shared(words))


MAKERS: dict[str, Callable[[Words], Instruction]] = {
    "add": _add,
    "arg": _arg,
    "cmd": _cmd,
    "copy": _copy,
    "entrypoint": _entrypoint,
    "env": _env,
    "expose": _expose,
    "healthcheck": _healthcheck,
    "label": _label,
    "maintainer": _maintainer,
    "onbuild": _onbuild,
    "run": _run,
    "shell": _shell,
    "stopsignal": _stop_signal,
    "user": _user,
    "volume": _volume,
    "workdir": _workdir,
}
KEYWORDS = tuple(sorted(keyword.upper() for keyword in (*MAKERS, "from")))
