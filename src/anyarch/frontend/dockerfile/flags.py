"""Flags of instructions: finding them in a line, and checking them against what the instruction takes."""

from __future__ import annotations

from anyarch.errors import DockerfileError

from .gotext import BLANKS, did_you_mean

__all__ = ["FlagKind", "Flags", "split_flags"]

FlagKind = str
"""`bool`, `string` or `strings` (may be repeated)."""


def split_flags(text: str, escape: str) -> tuple[list[str], str]:
    """The leading words that start with `--`, unquoted, and the rest of the text.

    A lone `--` ends them and is dropped. Quotes may stand anywhere in a word; the escape character takes the
    next character as it is, inside both kinds of quotes too.
    """
    flags: list[str] = []
    pos = 0
    size = len(text)
    while True:
        while pos < size and text[pos] in BLANKS:
            pos += 1
        if not text.startswith("--", pos):
            return flags, text[pos:]
        word: list[str] = []
        mark = ""
        was_quoted = False
        while pos < size:
            char = text[pos]
            if not mark and char in BLANKS:
                break
            pos += 1
            if char == mark:
                mark = ""
            elif not mark and char in "'\"":
                mark = char
                was_quoted = True
            elif char == escape:
                word.append(text[pos : pos + 1])
                pos += 1
            else:
                word.append(char)
        flag = "".join(word)
        if flag == "--":
            return flags, text[pos:]
        if flag or was_quoted:
            flags.append(flag)


class Flags:
    """The flags of one instruction, checked. Absent ones answer with their defaults."""

    def __init__(self, words: list[str], kinds: dict[str, FlagKind]) -> None:
        """Raises `DockerfileError` for an unknown, repeated or malformed flag."""
        self.values: dict[str, list[str]] = {}
        for word in words:
            name, has_value, value = word.partition("=")
            if not name.startswith("--"):
                raise DockerfileError(f"arg should start with -- : {word}")
            kind = kinds.get(name[2:])
            if kind is None:
                raise DockerfileError(did_you_mean(f"unknown flag: {name}", name[2:], list(kinds)))
            known = self.values.setdefault(name[2:], [])
            if known and kind != "strings":
                raise DockerfileError(f"duplicate flag specified: {name}")
            if kind == "bool":
                if has_value and not value:
                    raise DockerfileError(f"missing a value on flag: {name}")
                value = value.lower() or "true"
                if value not in ("true", "false"):
                    given = word.partition("=")[2]
                    raise DockerfileError(f"expecting boolean value for flag {name}, not: {given}")
            elif not has_value:
                raise DockerfileError(f"missing a value on flag: {name}")
            known.append(value)

    def text(self, name: str, default: str = "") -> str:
        return self.values[name][0] if name in self.values else default

    def texts(self, name: str) -> tuple[str, ...]:
        return tuple(self.values.get(name, ()))

    def truth(self, name: str) -> bool:
        return self.text(name) == "true"

    def truth_or_none(self, name: str) -> bool | None:
        return self.truth(name) if name in self.values else None
