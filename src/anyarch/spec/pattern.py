"""Patterns of ignore files and of `COPY --exclude`, as moby's patternmatcher has them.

A pattern is anchored at the root, `*` and `?` stay within a path element, `**` spans any number of them,
`[…]` is a class, `\\` escapes, a leading `!` brings back. A pattern that matches a directory covers all below
it; the last matching pattern decides. Matching is done for trees of many files, so patterns are sorted into
dictionaries (plain paths and plain names) and two regular expressions (the rest), and a walk hands each
directory's result to its children.
"""

from __future__ import annotations

import posixpath
import re
from typing import TYPE_CHECKING

import msgspec

from anyarch.errors import DockerfileError
from anyarch.spec.text import BLANKS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["MatchState", "Pattern", "PatternMatcher", "clean_path"]


def clean_path(path: str) -> str:
    """The shortest equivalent of a path, `.` for an empty one; two leading slashes become one."""
    cleaned = posixpath.normpath(path)
    return cleaned[1:] if cleaned.startswith("//") else cleaned


class Pattern(msgspec.Struct, frozen=True):
    """One pattern: its cleaned text without `!`, and whether it had one."""

    text: str
    is_exclusion: bool


class MatchState(msgspec.Struct, frozen=True):
    """What a match means for the children of a path; give it to `PatternMatcher.match_child`.

    `hit` is the index of the last pattern that matches the path or a parent, -1 for none.
    """

    matched: bool
    hit: int


class PatternMatcher:
    """A list of patterns, the last matching one decides. Compiled once, may be used by several threads."""

    def __init__(self, patterns: Iterable[str]) -> None:
        """Raises `DockerfileError` for a malformed pattern."""
        self.patterns = tuple(_read(patterns))
        self._paths: dict[str, int] = {}
        self._names: dict[str, int] = {}
        path_forms: list[tuple[int, str]] = []
        name_forms: list[tuple[int, str]] = []
        for index, pattern in enumerate(self.patterns):
            tokens = _tokens(pattern.text)
            form = _form(pattern.text, tokens)
            if form is _EXACT:
                self._paths[_plain(tokens)] = index
            elif form is _NAME:
                self._names[pattern.text[3:]] = index
            elif _matches_by_name(tokens):
                name_forms.append((index, _regex(pattern.text, tokens[1:])))
            else:
                path_forms.append((index, _regex(pattern.text, tokens)))
        self._match_path = _alternatives(path_forms)
        self._match_name = _alternatives(name_forms)
        self._states = [
            MatchState(matched=not pattern.is_exclusion, hit=i) for i, pattern in enumerate(self.patterns)
        ]
        self._states.append(MatchState(matched=False, hit=-1))
        self._returning = [
            (index, _elements(pattern.text))
            for index, pattern in enumerate(self.patterns)
            if pattern.is_exclusion
        ]

    @property
    def has_exclusions(self) -> bool:
        """True if any pattern starts with `!`."""
        return bool(self._returning)

    @property
    def root(self) -> MatchState:
        """State to start a walk with (for the children of the root directory)."""
        return self._states[-1]

    def matches(self, path: str) -> bool:
        """True if the last pattern that matches `path` or one of its parents has no `!`.

        `path` is relative and clean, with `/` between its elements.
        """
        hit = self._hit(path)
        end = path.rfind("/")
        while end > 0:
            hit = max(hit, self._hit(path[:end]))
            end = path.rfind("/", 0, end)
        return self._states[hit].matched

    def match_child(self, path: str, parent: MatchState) -> MatchState:
        """The same as `matches` for one path of a walk, with the state of its parent directory reused."""
        return self._states[max(parent.hit, self._hit(path))]

    def can_skip_directory(self, path: str, state: MatchState | None = None) -> bool:
        """True if the directory is matched and no `!` pattern could bring back anything below it.

        A walk has the directory's `state` at hand; without it, it is worked out.
        """
        if state is None:
            matched = self.matches(path)
            hit = -1
        else:
            matched, hit = state.matched, state.hit
        if not matched:
            return False
        elements = path.split("/")
        return not any(
            index > hit and _reaches_below(returning, elements) for index, returning in self._returning
        )

    def _hit(self, path: str) -> int:
        """Index of the last pattern that matches `path` itself, -1 for none."""
        hit = self._paths.get(path, -1)
        if self._names or self._match_name:
            name = path[path.rfind("/") + 1 :]
            hit = max(hit, self._names.get(name, -1))
            if self._match_name:
                hit = max(hit, self._match_name(name))
        if self._match_path:
            hit = max(hit, self._match_path(path))
        return hit


def _read(patterns: Iterable[str]) -> Iterable[Pattern]:
    for written in patterns:
        text = written.strip(BLANKS)
        if not text:
            continue
        is_exclusion = text.startswith("!")
        text = text.removeprefix("!")
        if not text:
            raise DockerfileError('illegal exclusion pattern: "!"')
        yield Pattern(clean_path(text), is_exclusion)


# Tokens of a pattern: a wildcard's text, or one literal character behind a backslash, or a class as a regex.
_EXACT, _NAME, _OTHER = "exact", "name", "other"
_ANY, _STAR, _GLOBSTAR, _GLOBSTAR_SLASH = "?", "*", "**", "**/"


def _tokens(text: str) -> list[str]:
    """Cut a pattern. Raises `DockerfileError` when it is malformed."""
    tokens: list[str] = []
    pos = 0
    while pos < len(text):
        char = text[pos]
        if text.startswith("**", pos):
            slash = text.startswith("/", pos + 2)
            tokens.append(_GLOBSTAR_SLASH if slash else _GLOBSTAR)
            pos += 3 if slash else 2
        elif char in "*?":
            tokens.append(char)
            pos += 1
        elif char == "[":
            end, regex = _character_class(text, pos)
            tokens.append(regex)
            pos = end
        elif char == "\\":
            if pos + 1 == len(text):
                raise _malformed(text)
            tokens.append("\\" + text[pos + 1])
            pos += 2
        else:
            tokens.append("\\" + char)
            pos += 1
    return tokens


def _malformed(text: str) -> DockerfileError:
    return DockerfileError("syntax error in pattern", hint=f"the pattern is {text!r}")


def _character_class(text: str, start: int) -> tuple[int, str]:
    """Read `[a-z]` or `[^a-z]` at `start`; `]` and `-` have to be escaped in it. Answers the end and a
    regex."""
    pos = start + 1
    negated = text.startswith("^", pos)
    pos += negated
    parts: list[str] = []

    def member() -> str:
        nonlocal pos
        if pos >= len(text) or text[pos] in "-]":
            raise _malformed(text)
        if text[pos] == "\\":
            pos += 1
        if pos + 1 >= len(text):
            raise _malformed(text)
        pos += 1
        return text[pos - 1]

    while not (parts and text[pos] == "]"):
        low = high = member()
        if text[pos] == "-":
            pos += 1
            high = member()
        if low > high:
            raise _malformed(text)
        parts.append(f"{re.escape(low)}-{re.escape(high)}" if high != low else re.escape(low))
    return pos + 1, f"[{'^' if negated else ''}{''.join(parts)}]"


def _plain(tokens: list[str]) -> str:
    return "".join(token[1:] for token in tokens)


def _form(text: str, tokens: list[str]) -> str:
    """How a pattern can be looked up: as a whole path, as `**/` and a plain name, or only by a regex."""
    if all(token.startswith("\\") for token in tokens):
        return _EXACT
    name = text[3:]
    if tokens[0] == _GLOBSTAR_SLASH and name and not any(char in name for char in "*?[\\/"):
        return _NAME
    return _OTHER


def _takes_slash(token: str) -> bool:
    """True for a class that has the slash in it, as the negated ones do."""
    return token.startswith("[") and re.match(token, "/") is not None


def _matches_by_name(tokens: list[str]) -> bool:
    """True for `**/` and a pattern that takes exactly one path element."""
    return (
        tokens[0] == _GLOBSTAR_SLASH
        and len(tokens) > 1
        and not any(
            token in (_GLOBSTAR, _GLOBSTAR_SLASH, "\\/") or _takes_slash(token) for token in tokens[1:]
        )
    )


def _regex(text: str, tokens: list[str]) -> str:
    parts: list[str] = []
    last = len(tokens) - 1
    for index, token in enumerate(tokens):
        if token == _STAR:
            parts.append("[^/]*")
        elif token == _ANY:
            parts.append("[^/]")
        elif token in (_GLOBSTAR, _GLOBSTAR_SLASH):
            # `**name` with nothing but plain characters behind takes any path that ends so.
            is_suffix = token == _GLOBSTAR and index == 0 and not any(char in text[2:] for char in "*?[\\")
            parts.append(".*" if index == last or is_suffix else "(?:.*/)?")
        elif token.startswith("\\"):
            parts.append(re.escape(token[1:]))
        else:
            parts.append(token)
    return "".join(parts)


def _alternatives(forms: list[tuple[int, str]]) -> Callable[[str], int] | None:
    """A function from a text to the largest index whose regex takes the whole text, -1 for none."""
    if not forms:
        return None
    # The first alternative that fits is taken, so the last pattern stands first.
    forms = forms[::-1]
    fullmatch = re.compile("|".join(f"({regex})" for _, regex in forms), re.DOTALL).fullmatch
    indexes = [-1, *(index for index, _ in forms)]

    def find(text: str) -> int:
        match = fullmatch(text)
        return indexes[match.lastindex or 0] if match else -1

    return find


def _elements(text: str) -> list[tuple[str, Callable[[str], object] | None]]:
    """A `!` pattern cut at its slashes: each element's text and, if it has wildcards, how to match one."""
    elements: list[tuple[str, Callable[[str], object] | None]] = []
    tokens = _tokens(text)
    if any(_takes_slash(token) for token in tokens):
        # There is no cutting such a pattern at its slashes.
        return [(_GLOBSTAR, None)]
    for element in _split_elements(text):
        parts = _tokens(element)
        if _GLOBSTAR in parts:
            elements.append((_GLOBSTAR, None))
            break
        if all(part.startswith("\\") for part in parts):
            elements.append((_plain(parts), None))
        else:
            elements.append((element, re.compile(_regex(element, parts), re.DOTALL).fullmatch))
    return elements


def _split_elements(text: str) -> list[str]:
    """Split at slashes that are in no class and not escaped (an escaped slash is a slash, too)."""
    out = [""]
    pos = 0
    while pos < len(text):
        end = pos + 1
        if text[pos] == "[":
            end, _ = _character_class(text, pos)
        elif text[pos] == "\\":
            end = pos + 2
        if text[pos:end] in ("/", "\\/"):
            out.append("")
        else:
            out[-1] += text[pos:end]
        pos = end
    return out


def _reaches_below(pattern: list[tuple[str, Callable[[str], object] | None]], directory: list[str]) -> bool:
    """True if the pattern could match something below the directory."""
    for index, (text, matches) in enumerate(pattern):
        if text == _GLOBSTAR and matches is None:
            return True
        if index == len(directory):
            return True
        if not (matches(directory[index]) if matches else text == directory[index]):
            return False
    return False
