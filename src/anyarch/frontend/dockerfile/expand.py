"""Variable expansion of Dockerfile words (section "Environment replacement" of the Dockerfile reference).

`$name`, `${name}`, the modifiers `:-` `-` `:+` `+` `:?` `?` `#` `##` `%` `%%` `/` `//`, quotes and the escape
character. Pure functions of text and a mapping; which words of which instruction are expanded, and with what
environment, is the conversion's business.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import msgspec

from anyarch.errors import DockerfileError

from .glob import Glob
from .gotext import BLANKS, quote

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Expansion", "expand", "expand_words"]

_SPECIAL_NAMES = "@*#?-$!0"
_MAX_DEPTH = 100
_WORD_ENDS = f"[{BLANKS}]+"


class Expansion(msgspec.Struct, frozen=True):
    """The outcome of `expand`.

    `value` is the text with variables replaced and quotes removed; `matched` and `unmatched` are the names of
    the variables that were looked up and found or not, in order of first use, each once.
    """

    value: str
    matched: tuple[str, ...] = ()
    unmatched: tuple[str, ...] = ()


def expand(
    word: str,
    env: Mapping[str, str],
    *,
    escape: str = "\\",
    windows: bool = False,
    raw_quotes: bool = False,
    raw_escapes: bool = False,
    keep_unset: bool = False,
    quotes: bool = True,
) -> Expansion:
    """Expand one word. Raises `DockerfileError` for a bad substitution or an unfinished quote.

    `raw_quotes` and `raw_escapes` keep quotes and escape characters in the result, `keep_unset` leaves
    references to unset variables as they are, `quotes=False` treats quotes as plain characters (bodies of
    inline files). `windows` compares names case-insensitively.
    """
    if "$" not in word and escape not in word and not (quotes and ("'" in word or '"' in word)):
        return Expansion(word)
    scan = _Scan(word, _folded(env) if windows else env, escape)
    scan.windows = windows
    scan.raw_quotes = raw_quotes
    scan.raw_escapes = raw_escapes
    scan.keep_unset = keep_unset
    scan.quotes = quotes
    value = scan.whole(None)
    return Expansion(
        value,
        tuple(name for name, found in scan.seen.items() if found),
        tuple(name for name, found in scan.seen.items() if not found),
    )


def expand_words(
    word: str,
    env: Mapping[str, str],
    *,
    escape: str = "\\",
    windows: bool = False,
    raw_quotes: bool = False,
    raw_escapes: bool = False,
    keep_unset: bool = False,
) -> list[str]:
    """Expand, then split at blanks that are not quoted; blanks inside variable values split too.

    Empty words never come out. A `<<` keeps the blanks behind it, so that a here-document's `<< WORD` is one
    word. Raises `DockerfileError`.
    """
    scan = _Scan(word, _folded(env) if windows else env, escape)
    scan.windows = windows
    scan.raw_quotes = raw_quotes
    scan.raw_escapes = raw_escapes
    scan.keep_unset = keep_unset
    words = _Words()
    scan.whole(words)
    return words.finish()


def _folded(env: Mapping[str, str]) -> dict[str, str]:
    return {name.upper(): value for name, value in env.items()}


class _Words:
    """Collects text and cuts it at unquoted blanks."""

    __slots__ = ("done", "part")

    def __init__(self) -> None:
        self.done: list[str] = []
        self.part: list[str] = []

    def literal(self, text: str) -> None:
        self.part.append(text)

    def splittable(self, text: str) -> None:
        first, *others = re.split(_WORD_ENDS, text)
        self.part.append(first)
        for other in others:
            self._cut()
            self.part.append(other)

    def _cut(self) -> None:
        word = "".join(self.part)
        if word:
            self.done.append(word)
        self.part = []

    def finish(self) -> list[str]:
        self._cut()
        return self.done


class _Scan:
    """One pass over a word. `pos` is the next character to be read."""

    __slots__ = (
        "depth",
        "env",
        "escape",
        "keep_unset",
        "pos",
        "quotes",
        "raw_escapes",
        "raw_quotes",
        "seen",
        "text",
        "windows",
    )

    def __init__(self, text: str, env: Mapping[str, str], escape: str) -> None:
        self.text = text
        self.env = env
        self.escape = escape
        self.pos = 0
        self.depth = 0
        self.windows = self.raw_quotes = self.raw_escapes = self.keep_unset = False
        self.quotes = True
        self.seen: dict[str, bool] = {}

    def whole(self, words: _Words | None) -> str:
        try:
            return self.until("", words)
        except DockerfileError as error:
            raise DockerfileError(f"failed to process {quote(self.text)}: {error.message}") from None

    def peek(self) -> str:
        return self.text[self.pos] if self.pos < len(self.text) else ""

    def next(self) -> str:
        char = self.peek()
        self.pos += 1
        return char

    def until(self, stop: str, words: _Words | None = None) -> str:
        """Expand up to the character `stop` (consumed), or the end of the text if `stop` is empty."""
        out: list[str] = []
        text = self.text
        while self.pos < len(text):
            char = text[self.pos]
            if char == stop:
                self.pos += 1
                return "".join(out)
            if char == "$":
                piece = self.dollar()
                if words:
                    words.splittable(piece)
            elif self.quotes and char == "'":
                piece = self.single_quoted()
                if words:
                    words.literal(piece)
            elif self.quotes and char == '"':
                piece = self.double_quoted()
                if words:
                    words.literal(piece)
            elif char == self.escape:
                self.pos += 1
                escaped = self.next()
                piece = char + escaped if self.raw_escapes else escaped
                if words:
                    words.literal(piece)
            elif char == "<" and words and text.startswith("<<", self.pos):
                start = self.pos
                self.pos += 2
                while self.peek() in ("\t", "\r", " "):
                    self.pos += 1
                piece = text[start : self.pos]
                words.literal(piece)
            else:
                piece = char
                self.pos += 1
                if words:
                    words.splittable(piece)
            out.append(piece)
        if stop:
            raise DockerfileError(f"unexpected end of statement while looking for matching {stop}")
        return "".join(out)

    def single_quoted(self) -> str:
        end = self.text.find("'", self.pos + 1)
        if end < 0:
            self.pos = len(self.text)
            raise DockerfileError("unexpected end of statement while looking for matching single-quote")
        start, self.pos = self.pos, end + 1
        return self.text[start : end + 1] if self.raw_quotes else self.text[start + 1 : end]

    def double_quoted(self) -> str:
        self.pos += 1
        out = ['"'] if self.raw_quotes else []
        while True:
            char = self.peek()
            if not char:
                raise DockerfileError("unexpected end of statement while looking for matching double-quote")
            if char == "$":
                out.append(self.dollar())
                continue
            self.pos += 1
            if char == '"':
                if self.raw_quotes:
                    out.append(char)
                return "".join(out)
            if char == self.escape:
                following = self.peek()
                if not following:
                    continue
                if following in ('"', "$", self.escape):
                    self.pos += 1
                    if self.raw_escapes:
                        out.append(char)
                    char = following
            out.append(char)

    def dollar(self) -> str:
        """What a `$` and that which belongs to it stand for."""
        self.pos += 1
        if self.peek() != "{":
            name = self.name()
            if not name:
                return "$"
            value = self.lookup(name)
            if value is None:
                return f"${name}" if self.keep_unset else ""
            return value
        self.pos += 1
        first = self.peek()
        if not first:
            raise DockerfileError("syntax error: missing '}'")
        if first in "{}:":
            raise DockerfileError("syntax error: bad substitution")
        name = self.name()
        modifier = self.next()
        if modifier == "}":
            value = self.lookup(name)
            if value is None:
                return f"${{{name}}}" if self.keep_unset else ""
            return value
        if not modifier:
            raise DockerfileError("syntax error: missing '}'")
        if self.depth >= _MAX_DEPTH:
            raise DockerfileError(f"syntax error: substitutions nested more than {_MAX_DEPTH} deep")
        self.depth += 1
        try:
            return self.replaced(name) if modifier == "/" else self.modified(name, modifier)
        finally:
            self.depth -= 1

    def name(self) -> str:
        start = self.pos
        first = self.peek()
        if first.isdecimal():
            while self.peek().isdecimal():
                self.pos += 1
        elif first and first in _SPECIAL_NAMES:
            self.pos += 1
        else:
            while (char := self.peek()) and (char == "_" or char.isalpha() or char.isdecimal()):
                self.pos += 1
        return self.text[start : self.pos]

    def lookup(self, name: str) -> str | None:
        value = self.env.get(name.upper() if self.windows else name)
        self.seen[name] = value is not None
        return value

    def operand(self, stop: str, missing: str, *, raw_escapes: bool) -> str:
        """The text of a modifier up to `stop`, expanded; at the end of the text the error says what is
        missing.
        """
        outer, self.raw_escapes = self.raw_escapes, raw_escapes
        try:
            return self.until(stop)
        except DockerfileError:
            if self.pos >= len(self.text):
                raise DockerfileError(missing) from None
            raise
        finally:
            self.raw_escapes = outer

    def modified(self, name: str, modifier: str) -> str:
        """`${name…}` with one of the modifiers - + ? # %, the first three maybe behind a colon."""
        written = modifier
        empty_is_unset = modifier == ":"
        if empty_is_unset:
            modifier = self.next()
            written += modifier
        trims = modifier in ("#", "%")
        if (trims and empty_is_unset) or (not empty_is_unset and modifier not in ("-", "+", "?", "#", "%")):
            raise DockerfileError(f"unsupported modifier ({written}) in substitution")
        word = self.operand("}", "syntax error: missing '}'", raw_escapes=trims)
        value = self.lookup(name)
        if value is None and self.keep_unset:
            return f"${{{name}{written}{word}}}"
        absent = value is None or (empty_is_unset and value == "")
        match modifier:
            case "-":
                return word if absent else value or ""
            case "+":
                return "" if absent else word
            case "?":
                if absent:
                    state = "unset" if value is None else "empty"
                    raise DockerfileError(f"{name}: {word or f'is not allowed to be {state}'}")
                return value or ""
            case "#" | "%":
                longest = word.startswith(modifier)
                pattern = Glob(word[1:] if longest else word)
                trim = pattern.without_prefix if modifier == "#" else pattern.without_suffix
                return trim(value or "", longest=longest)
            case _:
                raise DockerfileError(f"unsupported modifier ({written}) in substitution")

    def replaced(self, name: str) -> str:
        """`${name/pattern/replacement}` and `${name//pattern/replacement}`."""
        everywhere = self.peek() == "/"
        if everywhere:
            self.pos += 1
        pattern = self.operand("/", "syntax error: missing '/' in ${}", raw_escapes=True)
        replacement = self.operand("}", "syntax error: missing '}'", raw_escapes=True)
        value = self.lookup(name)
        if value is None and self.keep_unset:
            return f"${{{name}/{pattern}/{replacement}}}"
        return Glob(pattern).replaced(value or "", replacement, everywhere=everywhere)
