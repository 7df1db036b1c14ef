"""From text to statements: physical lines, parser directives, comments, continuation lines, here-document
bodies.

A statement is one instruction with its continuation lines joined, its line numbers, and the comments above
it. What the words of a statement mean is the parser's business.
"""

from __future__ import annotations

import re

import msgspec

from anyarch.errors import DockerfileError, SourceRange

from .gotext import BLANKS
from .heredoc import is_terminator
from .instructions import Directive, Directives, Heredoc

__all__ = ["MAX_LINE_BYTES", "Source", "Statement", "Syntax", "detect_syntax", "find_directives"]

MAX_LINE_BYTES = 65_535
"""Longest physical line, without its line feed."""

_BOM = "\ufeff"
_NAMES = ("syntax", "escape", "check")
_DIRECTIVE = re.compile(r"([a-zA-Z][a-zA-Z0-9]*)[\t\n\f\r ]*=[\t\n\f\r ]*(.+?)[\t\n\f\r ]*")


class Statement(msgspec.Struct):
    """`text` is joined but untrimmed; `has_blank_continuation`: a blank line stood between its lines."""

    text: str
    start: int
    end: int
    comments: tuple[str, ...] = ()
    has_blank_continuation: bool = False
    heredocs: tuple[Heredoc, ...] = ()


class Source:
    """The lines of a Dockerfile, read statement by statement."""

    def __init__(self, data: bytes, filename: str, *, escape: str | None = None) -> None:
        """Read the directives. `escape` set means that there are none (a lone instruction). Raises
        `DockerfileError`.

        Bytes that are not UTF-8 become lone surrogates and come out as they were.
        """
        self.data = data
        self.filename = filename
        self._next = 0
        if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
            raise DockerfileError(
                "dockerfile parse error on line 1: the file is UTF-16 text",
                hint="save it as UTF-8; in PowerShell: Set-Content -Encoding utf8",
                source=self.range(1, 1),
            )
        text = data.decode("utf-8", "surrogateescape").removeprefix(_BOM)
        self.lines = _split_lines(text)
        if len(data) > MAX_LINE_BYTES:
            self._check_sizes()
        self.escape = "\\" if escape is None else escape
        self.directives = Directives()
        if escape is None:
            self._read_directives()

    def range(self, start: int, end: int) -> SourceRange:
        return SourceRange(self.filename, start, end, data=self.data)

    def error(self, message: str, start: int, end: int, *, hint: str | None = None) -> DockerfileError:
        """An error with the line in its text and the range beside it."""
        text = f"dockerfile parse error on line {start}: {message}"
        return DockerfileError(text, hint=hint, source=self.range(start, end))

    def _check_sizes(self) -> None:
        for number, line in enumerate(self.lines, 1):
            if len(line) * 4 > MAX_LINE_BYTES:
                size = len(line.encode("utf-8", "surrogateescape")) - line.endswith("\n")
                if size > MAX_LINE_BYTES:
                    message = f"dockerfile line greater than max allowed size of {MAX_LINE_BYTES}"
                    raise self.error(message, number, number)

    def _read_directives(self) -> None:
        found: dict[str, Directive] = {}
        for number, line in enumerate(self.lines, 1):
            directive = _directive(line, number, "#")
            if directive is None:
                break
            if directive.name in found:
                message = f"only one {directive.name} parser directive can be used"
                raise self.error(message, number, number)
            if directive.name == "escape" and directive.value not in ("\\", "`"):
                message = f"invalid escape token '{directive.value}' does not match ` or \\"
                raise self.error(message, number, number)
            found[directive.name] = directive
            self._next = number
        self.directives = Directives(**found)
        if self.directives.escape:
            self.escape = self.directives.escape.value

    def statement(self) -> Statement | None:
        """The next statement, None at the end of the file."""
        comments: list[str] = []
        while self._next < len(self.lines):
            line = self.lines[self._next].strip("\r\n").lstrip(BLANKS)
            self._next += 1
            if line.startswith("#"):
                comment = line[1:].strip(BLANKS)
                if comment:
                    comments.append(comment)
                else:
                    comments.clear()
            elif line:
                return self._join(line, tuple(comments))
        return None

    def _join(self, line: str, comments: tuple[str, ...]) -> Statement:
        start = self._next
        line, is_continued = self._strip_continuation(line)
        pieces = [line]
        has_blank = False
        while is_continued and self._next < len(self.lines):
            line = self.lines[self._next].rstrip("\r\n")
            self._next += 1
            content = line.lstrip(BLANKS)
            if content.startswith("#"):
                continue
            if not content:
                has_blank = True
                continue
            line, is_continued = self._strip_continuation(line)
            pieces.append(line)
        return Statement("".join(pieces), start, self._next, comments, has_blank)

    def _strip_continuation(self, line: str) -> tuple[str, bool]:
        """A line continues on the next when its last character is the escape character and the one before is
        not.

        So three of them at the end do not continue: a known quirk of the language, kept.
        """
        stripped = line.rstrip(" \t")
        if stripped.endswith(self.escape) and stripped[-2:-1] != self.escape:
            return stripped[:-1], True
        return line, False

    def read_bodies(self, statement: Statement, heredocs: list[Heredoc]) -> None:
        """Take the bodies that follow into `heredocs` of it. Raises `DockerfileError` if one has no end."""
        filled = []
        for heredoc in heredocs:
            first = self._next
            last = first
            while last < len(self.lines) and not is_terminator(self.lines[last], heredoc):
                last += 1
            if last == len(self.lines):
                raise self.error(
                    "unterminated heredoc",
                    statement.start,
                    last,
                    hint=f"no line holds just {heredoc.name!r}, the word behind <<",
                )
            self._next = last + 1
            filled.append(msgspec.structs.replace(heredoc, content="".join(self.lines[first:last])))
        statement.heredocs = tuple(filled)
        statement.end = self._next


def _split_lines(text: str) -> list[str]:
    """Lines with their line feeds (`str.splitlines` breaks at more than those)."""
    lines = text.split("\n")
    last = lines.pop()
    return [line + "\n" for line in lines] + ([last] if last else [])


def _directive(line: str, number: int, mark: str) -> Directive | None:
    line = line.rstrip("\r\n").lstrip(BLANKS)
    if not line.startswith(mark):
        return None
    match = _DIRECTIVE.fullmatch(line[len(mark) :].lstrip(BLANKS))
    if match is None or match[1].lower() not in _NAMES:
        return None
    return Directive(match[1].lower(), match[2], number)


def find_directives(data: bytes, *, mark: str = "#") -> dict[str, Directive]:
    """The directives at the head of `data` by name, found leniently: a `#!` line is skipped, a repeated one
    ends it.

    For what must be known before (or although) the file does not parse: the frontend image and the checks.
    """
    text = data.decode("utf-8", "surrogateescape").removeprefix(_BOM)
    found: dict[str, Directive] = {}
    number = 0
    for line in _split_lines(text):
        number += 1
        if number == 1 and line.startswith("#!"):
            continue
        directive = _directive(line, number, mark)
        if directive is None or directive.name in found:
            break
        found[directive.name] = directive
    return found


class Syntax(msgspec.Struct, frozen=True):
    """The frontend image that a file asks for: `reference`, the whole text as `cmdline`, where it stands."""

    reference: str
    cmdline: str
    line: int


def detect_syntax(data: bytes) -> Syntax | None:
    """Which frontend the file names: `# syntax=`, `// syntax=`, or the key "syntax" of a JSON document."""
    for mark in ("#", "//"):
        directive = find_directives(data, mark=mark).get("syntax")
        if directive:
            return Syntax(directive.value.partition(" ")[0], directive.value, directive.line)
    text = data.removeprefix(b"\xef\xbb\xbf")
    if text.startswith(b"#!"):
        text = text.partition(b"\n")[2]
    if text.lstrip()[:1] != b"{":
        return None
    try:
        document = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return None
    value = document.get("syntax") if isinstance(document, dict) else None
    return Syntax(value, value, 1) if isinstance(value, str) else None
