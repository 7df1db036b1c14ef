"""From the bytes of a Dockerfile to `instructions.Dockerfile`.

`lexer` makes statements, `words` and `flags` cut them; here each instruction's arguments are checked and put
into its struct. Nothing is expanded and nothing outside the file is looked at.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from anyarch.errors import DockerfileError, SourceRange

from .flags import split_flags
from .gotext import BLANKS, did_you_mean, split_blanks
from .heredoc import announced
from .instructions import Arg, Directives, Dockerfile, ParseWarning, Stage
from .lexer import Source
from .make import HEREDOC_KEYWORDS, KEYWORDS, MAKERS, Words, make_stage
from .words import json_array, name_value_pairs

if TYPE_CHECKING:
    from .instructions import Instruction
    from .lexer import Statement

__all__ = ["parse", "parse_instruction", "parse_leniently", "parse_onbuild", "read_words"]

Lines = tuple[int, int]


def parse(data: bytes, filename: str = "Dockerfile") -> Dockerfile:
    """Parse a whole Dockerfile. Raises `DockerfileError` with its source lines; nothing else."""
    dockerfile, error = parse_leniently(data, filename)
    if error is not None:
        raise error
    return dockerfile


def parse_leniently(data: bytes, filename: str = "Dockerfile") -> tuple[Dockerfile, DockerfileError | None]:
    """What `parse` gives, up to the first error, and that error. Raises nothing."""
    reader = _Reader(filename)
    error: DockerfileError | None = None
    try:
        reader.read(data)
    except DockerfileError as problem:
        error = problem
    return reader.dockerfile(data), error


class _Reader:
    """Collects what the statements of a file are."""

    def __init__(self, filename: str) -> None:
        self.filename = filename
        self.escape = "\\"
        self.directives = Directives()
        self.global_args: list[Arg] = []
        self.stages: list[tuple[Stage, list[Instruction]]] = []
        self.warnings: list[ParseWarning] = []

    def read(self, data: bytes) -> None:
        """Raises `DockerfileError`; what was read before it is there."""
        if not data:
            raise DockerfileError("the Dockerfile cannot be empty")
        source = Source(data, self.filename)
        self.escape = source.escape
        self.directives = source.directives
        is_empty = True
        while statement := source.statement():
            is_empty = False
            self.take(_read(source, statement), source, statement)
        if is_empty:
            raise DockerfileError("file with no instructions", source=source.range(1, 1))
        if not self.stages:
            raise DockerfileError("dockerfile contains no stages to build", source=source.range(1, 1))

    def take(self, parsed: Instruction | Stage, source: Source, statement: Statement) -> None:
        if statement.has_blank_continuation:
            bodies = sum(heredoc.content.count("\n") + 1 for heredoc in statement.heredocs)
            line = statement.end - bodies
            self.warnings.append(ParseWarning("NoEmptyContinuation", line, "Empty continuation line"))
        if isinstance(parsed, Stage):
            self.stages.append((parsed, []))
        elif self.stages:
            self.stages[-1][1].append(parsed)
        elif isinstance(parsed, Arg):
            self.global_args.append(parsed)
        else:
            raise DockerfileError(
                "no build stage in current context",
                hint="the first instruction has to be FROM; only ARG may stand before it",
                source=source.range(statement.start, statement.end),
            )

    def dockerfile(self, data: bytes) -> Dockerfile:
        return Dockerfile(
            filename=self.filename,
            data=data,
            escape=self.escape,
            directives=self.directives,
            global_args=tuple(self.global_args),
            stages=tuple(
                msgspec.structs.replace(stage, instructions=tuple(instructions))
                for stage, instructions in self.stages
            ),
            warnings=tuple(self.warnings),
        )


def parse_instruction(
    text: str,
    *,
    escape: str = "\\",
    filename: str = "Dockerfile",
    lines: Lines | None = None,
    data: bytes = b"",
) -> Instruction:
    """Parse the text of one instruction, which may span lines and hold here-document bodies.

    `lines` and `data` place it in a file (its own lines without). Raises `DockerfileError`, also for FROM.
    """
    return _single(text, escape, filename, lines, data, "text should be a single instruction")


def parse_onbuild(
    trigger: str, *, filename: str = "Dockerfile", lines: Lines | None = None, data: bytes = b""
) -> Instruction:
    """Parse an ONBUILD trigger as an image config holds it: one instruction, escape character `\\`.

    `lines` are those of the FROM that fires it. Raises `DockerfileError`.
    """
    return _single(trigger, "\\", filename, lines, data, "onbuild trigger should be a single expression")


def _single(
    text: str, escape: str, filename: str, lines: Lines | None, data: bytes, problem: str
) -> Instruction:
    raw = text.encode("utf-8", "surrogateescape")
    try:
        source = Source(raw, filename, escape=escape)
        statement = source.statement()
        if statement is None:
            raise DockerfileError("file with no instructions")
        parsed = _read(source, statement)
        if source.statement() is not None:
            raise DockerfileError(problem)
        if isinstance(parsed, Stage):
            raise DockerfileError("FROM isn't allowed as an ONBUILD trigger")
    except DockerfileError as error:
        if lines is not None:
            error.source = SourceRange(filename, lines[0], lines[1], data=data)
        raise
    return parsed if lines is None else msgspec.structs.replace(parsed, lines=lines)


def _read(source: Source, statement: Statement) -> Instruction | Stage:
    """Finish a statement: its here-documents, then its instruction. Errors get their line and source."""
    try:
        words = read_words(source, statement)
        keyword = words.keyword.lower()
        if keyword == "from":
            return make_stage(words)
        maker = MAKERS.get(keyword)
        if maker is None:
            problem = f"unknown instruction: {words.keyword}"
            raise DockerfileError(did_you_mean(problem, words.keyword, KEYWORDS, case_sensitive=False))
        return maker(words)
    except DockerfileError as error:
        if error.source is not None:
            raise
        raise source.error(error.message, statement.start, statement.end, hint=error.hint) from None


def read_words(source: Source, statement: Statement) -> Words:
    """Cut a statement into words, and take the bodies of its here-documents. Raises `DockerfileError`."""
    words = _cut(statement.text, source.escape)
    if "<<" in statement.text and _may_have_heredocs(words):
        source.read_bodies(statement, announced(statement.text))
    words.heredocs = statement.heredocs
    words.comments = statement.comments
    words.original = statement.text
    words.lines = (statement.start, statement.end)
    return words


def _cut(text: str, escape: str, *, is_trigger: bool = False) -> Words:
    """Cut a line into keyword, flags and what the keyword's kind of arguments asks for. Raises
    `DockerfileError`.
    """
    if "\0" in text:
        raise DockerfileError("the instruction holds a NUL byte", hint="the file has to be UTF-8 text")
    parts = split_blanks(text.strip(BLANKS), 1)
    keyword = parts[0]
    flags, rest = split_flags(parts[1], escape) if len(parts) == 2 else ([], "")
    rest = rest.strip(BLANKS)
    words = Words(keyword=keyword, flags=flags, rest=rest, escape=escape)
    match keyword.lower():
        case "run" | "cmd" | "entrypoint" | "shell" | "add" | "copy" | "volume":
            words.array = json_array(rest)
        case "healthcheck":
            end = next((pos for pos, char in enumerate(rest) if char in BLANKS), len(rest))
            words.rest = rest[:end]
            words.tail = rest[end:].strip(BLANKS)
            words.array = json_array(words.tail)
        case "env" | "label" if rest:
            words.pairs = name_value_pairs(rest, keyword.upper(), escape)
        case "onbuild" if rest and not is_trigger:
            words.trigger = _cut(rest, escape, is_trigger=True)
    return words


def _may_have_heredocs(words: Words) -> bool:
    target = words.trigger if words.trigger and words.keyword.lower() == "onbuild" else words
    return target.keyword.lower() in HEREDOC_KEYWORDS and target.array is None
