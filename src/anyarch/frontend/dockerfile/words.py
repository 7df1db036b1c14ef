"""How the rest of an instruction's line is cut into arguments: word lists, JSON arrays, name=value pairs."""

from __future__ import annotations

import msgspec

from anyarch.errors import DockerfileError

from .gotext import BLANKS, quote, split_blanks
from .instructions import KeyValue

__all__ = ["json_array", "name_value_pairs", "quoted_words", "word_list"]


def word_list(text: str) -> list[str]:
    """Words between blanks; quotes mean nothing."""
    return split_blanks(text) if text else []


def quoted_words(text: str, escape: str) -> list[str]:
    """Words between blanks that are neither quoted nor escaped; quotes and escape characters are kept.

    Inside single quotes the escape character is an ordinary one.
    """
    if not any(char in text for char in ("'", '"', escape, "\x1c", "\x1d", "\x1e", "\x1f")):
        return text.split()
    words: list[str] = []
    pos = 0
    size = len(text)
    while True:
        while pos < size and text[pos] in BLANKS:
            pos += 1
        if pos == size:
            return words
        word: list[str] = []
        mark = ""
        was_quoted = False
        while pos < size and (mark or text[pos] not in BLANKS):
            char = text[pos]
            pos += 1
            if char == escape and mark != "'":
                # An escape character at the very end is dropped.
                if pos < size:
                    word.append(char + text[pos])
                    pos += 1
                continue
            if mark:
                if char == mark:
                    mark = ""
            elif char in "'\"":
                mark = char
                was_quoted = True
            word.append(char)
        if word or was_quoted:
            words.append("".join(word))


def name_value_pairs(text: str, keyword: str, escape: str) -> list[KeyValue]:
    """The pairs of ENV and LABEL: `a=b c="d e"`, or the legacy `name rest of the line`. Raises
    `DockerfileError`.
    """
    words = quoted_words(text, escape)
    if words and "=" not in words[0]:
        parts = split_blanks(text, 1)
        if len(parts) < 2:
            raise DockerfileError(f"{keyword} must have two arguments")
        return [KeyValue(parts[0], parts[1], legacy=True)]
    pairs = []
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            problem = f"Syntax error - can't find = in {quote(word)}"
            raise DockerfileError(f"{problem}. Must be of the form: name=value")
        pairs.append(KeyValue(name, value))
    return pairs


def json_array(text: str) -> list[str] | None:
    """The strings of a JSON array, None if the text is no JSON array.

    Raises `DockerfileError` for a well-formed array that holds anything but strings.
    """
    text = text.lstrip(BLANKS)
    if not text.startswith("["):
        return None
    try:
        values = _decode(text)
    except RecursionError:
        values = [None]
    except ValueError:
        return None
    if not isinstance(values, list):
        return None
    if not all(isinstance(value, str) for value in values):
        raise DockerfileError("when using JSON array syntax, arrays must be comprised of strings only")
    return values


def _decode(text: str) -> object:
    """Decode JSON. Raises `ValueError` (`msgspec.DecodeError` is one) or `RecursionError`."""
    if "\\u" not in text:
        try:
            return msgspec.json.decode(text.encode())
        except UnicodeEncodeError:
            pass  # bytes that are not UTF-8 are kept as they are: the slow way
    import json

    def refuse(constant: str) -> object:
        raise ValueError(constant)

    values = json.loads(text, parse_constant=refuse)
    if not isinstance(values, list):
        return values
    return [_without_surrogates(value, text) if isinstance(value, str) else value for value in values]


def _without_surrogates(value: str, written: str) -> str:
    """Replace lone surrogates that come from `\\ud800` escapes, not from undecodable bytes of the file."""
    if value.isascii():
        return value
    return "".join(
        "\ufffd" if "\ud800" <= char <= "\udfff" and char not in written else char for char in value
    )
