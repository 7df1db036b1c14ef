"""Symbolic modes as `chmod` has them (POSIX.1-2017, chmod): `u=rwX,go=rX`, `+x`, `g=u`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from anyarch.errors import BuildError

__all__ = ["parse_symbolic"]

_SHIFT = {"u": 6, "g": 3, "o": 0}
_BITS = {"r": 4, "w": 2, "x": 1}


class ModeChange(Protocol):
    def __call__(self, mode: int, *, is_directory: bool) -> int: ...


_Step = Callable[[int, int, bool], int]


def parse_symbolic(text: str) -> ModeChange:
    """The change that `text` describes (umask 0). Raises `BuildError`."""
    steps = [step for clause in text.split(",") for step in _clause(clause, text)]

    def change(mode: int, *, is_directory: bool) -> int:
        original = mode
        for step in steps:
            mode = step(mode, original, is_directory)
        return mode

    return change


def _clause(clause: str, text: str) -> list[_Step]:
    at = 0
    who = ""
    while at < len(clause) and clause[at] in "ugoa":
        who += clause[at]
        at += 1
    classes = "ugo" if not who or "a" in who else who
    if at == len(clause):
        raise BuildError(
            f"invalid mode {text!r}",
            hint="write an octal mode such as 644, or a symbolic one such as u=rwX,go=rX",
        )
    steps = []
    while at < len(clause):
        operator = clause[at]
        if operator not in "+-=":
            raise BuildError(f"invalid mode {text!r}: {operator!r} is not an operator")
        at += 1
        start = at
        while at < len(clause) and clause[at] not in "+-=":
            at += 1
        steps.append(_step(operator, classes, clause[start:at], text))
    return steps


def _step(operator: str, classes: str, permissions: str, text: str) -> _Step:
    for char in permissions:
        if char not in "rwxXstugo":
            raise BuildError(f"invalid mode {text!r}: {char!r} is no permission")

    def step(mode: int, original: int, is_directory: bool) -> int:
        for name in classes:
            shift = _SHIFT[name]
            bits = 0
            for char in permissions:
                if char in _BITS:
                    bits |= _BITS[char] << shift
                elif char == "X":
                    bits |= (1 << shift) if is_directory or mode & 0o111 else 0
                elif char in _SHIFT:
                    bits |= ((mode >> _SHIFT[char]) & 7) << shift
                elif char == "s":
                    bits |= {"u": 0o4000, "g": 0o2000, "o": 0}[name]
                elif char == "t":
                    bits |= 0o1000 if name == "o" else 0
            if operator == "+":
                mode |= bits
            elif operator == "-":
                mode &= ~bits
            else:
                clear = (7 << shift) | {"u": 0o4000, "g": 0o2000, "o": 0}[name]
                mode = (mode & ~clear) | bits
        return mode

    return step
