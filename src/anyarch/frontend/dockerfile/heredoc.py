"""Here-documents: which words of a line announce one, and what their bodies become."""

from __future__ import annotations

import re

from anyarch.errors import DockerfileError

from .expand import expand_words
from .instructions import Heredoc

__all__ = ["announced", "chomp_tabs", "is_terminator", "parse_heredoc"]

_WORD = r"(\d*)<<(-?)[\t\n\f\r ]*([^<]*)"
_NOTHING: dict[str, str] = {}


def parse_heredoc(word: str) -> Heredoc | None:
    """The here-document (without content) that `word` announces, None if it announces none.

    Raises `DockerfileError` for quotes that are not closed. The escape character is always the backslash: the
    word is the shell's.
    """
    match = re.fullmatch(_WORD, word, re.ASCII)
    if match is None or not match[3]:
        return None
    names = expand_words(match[3], _NOTHING, keep_unset=True)
    if len(names) != 1:
        return None
    name = names[0]
    raw = expand_words(match[3], _NOTHING, keep_unset=True, raw_quotes=True)[0]
    quoted = any(raw.count(mark) != name.count(mark) for mark in "'\"")
    # The digits are bounded by what a file descriptor can be, far below what int() refuses.
    fd = int(match[1][-9:] or "0")
    return Heredoc(name, expand=not quoted, chomp=match[2] == "-", fd=fd)


def announced(line: str) -> list[Heredoc]:
    """The here-documents that a line announces, in order. Raises `DockerfileError`.

    A line whose quotes or substitutions do not close announces none: that is left to the shell to complain
    about.
    """
    try:
        words = expand_words(line, _NOTHING, keep_unset=True, raw_quotes=True, raw_escapes=True)
    except DockerfileError:
        return []
    found = (parse_heredoc(word) for word in words if "<<" in word)
    return [heredoc for heredoc in found if heredoc is not None]


def is_terminator(line: str, heredoc: Heredoc) -> bool:
    """True if a physical line ends the body of `heredoc`."""
    text = line.rstrip("\r\n")
    return (text.lstrip("\t") if heredoc.chomp else text) == heredoc.name


def chomp_tabs(content: str) -> str:
    """The body without the tabs that lead its lines (`<<-`)."""
    return re.sub(r"^\t+", "", content, flags=re.MULTILINE)
