"""The program that the kernel starts for each foreign program of an accelerated step.

It is the emulator itself with a segment of ours, at which it begins. The code there knows a program by its
first page, size and time of change, not by its name: so a copy, a link or a relative path is the same to it,
and a program that a step has replaced is another one. For one that has a twin it looks at environment and
arguments; if all is well it executes the twin, else it goes on to where the emulator began before. Nothing
has to be found by a path for that, so it works in a chroot inside the step as well; twins do not exist there.

What it did is written to a log of eight byte records (`read_log`): the number of the twin and a verdict.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "ARGUMENT",
    "CLOSED",
    "ELSEWHERE",
    "ENVIRONMENT",
    "FAILED",
    "GONE",
    "HIDDEN",
    "INPUT",
    "LOG",
    "PAGE",
    "PLUGINS",
    "RAN",
    "REPLACED",
    "SHORT",
    "ArgumentRule",
    "Condition",
    "EnvironmentRule",
    "Identity",
    "Place",
    "Twin",
    "exemptions",
    "identity",
    "read_log",
    "refusals",
]

HIDDEN = "/../dev/mqueue"
"""Where a step finds the twins. `/..` is a second view of the step's tree, mounted over its root: whoever
looks at `/` or walks through it does not come there."""
SHORT = "/../dev/pts"
"""The same place, for a program that has not room for the other name."""
LOG = f"{HIDDEN}/log"

PAGE = 4096
RAN, REPLACED, ENVIRONMENT, ARGUMENT, GONE, CLOSED, ELSEWHERE, FAILED, PLUGINS, INPUT = range(1, 11)
RECORD = struct.Struct("<II")
PRIME, BASIS = 0x100000001B3, 0xCBF29CE484222325  # FNV-1a, of 64 bit words
WORD = (1 << 64) - 1


class Identity(msgspec.Struct, frozen=True, order=True):
    """How a file is recognised: its size, seconds of its time of change, a hash of its first page."""

    size: int
    mtime: int
    hash: int


class EnvironmentRule(msgspec.Struct, frozen=True, order=True):
    """A variable that begins with `prefix` stands in the way of a twin unless what follows is `allowed`."""

    prefix: str
    allowed: tuple[str, ...] = ()


class ArgumentRule(msgspec.Struct, frozen=True, order=True):
    """`refuse`: an argument that begins with `text` stands in the way; `end`: one that ends so. `swap`: the
    argument `text`, or the name by which the program was called, becomes `value`, and no rule behind it
    counts. `accept`: nor does one for an argument that begins with `text`. `next`: behind the argument `text`
    only `value` is known.
    """

    kind: str
    text: str
    value: str = ""


def refusals(texts: Iterable[str]) -> tuple[ArgumentRule, ...]:
    """Rules that each of these stands in the way."""
    return tuple(ArgumentRule("refuse", text) for text in texts)


def exemptions(texts: Iterable[str]) -> tuple[ArgumentRule, ...]:
    """Rules that these arguments do not, whatever rules come behind."""
    return tuple(ArgumentRule("swap", text, text) for text in texts)


class Place(msgspec.Struct, frozen=True, order=True):
    """What a step's tree may have at `path` at most: a directory with files of these `names`, or one of the
    `files` (size, seconds of its time of change)."""

    path: str
    names: tuple[str, ...] = ()
    files: tuple[tuple[int, int], ...] = ()


class Condition(msgspec.Struct, frozen=True, order=True):
    """When a twin may run: each of `needs` begins some variable, no rule forbids another, the first argument
    begins with `first`, and some argument is `given`, or begins with it where it ends with `=`.

    One file can be many programs, by the name that it is called by: with `names` that is one of them (behind
    the last slash, but for a `-` in front), or it is `wrapper` and the first argument is one of them. Other
    programs of the file are emulated without a word.

    With `here` a copy elsewhere has no twin: the file has to be the one that the twin's path leads to, by no
    other name. That is for programs which look around where they are. `places` have to be as they say."""

    needs: tuple[str, ...] = ()
    rules: tuple[EnvironmentRule, ...] = ()
    first: str = ""
    given: str = ""
    names: tuple[str, ...] = ()
    wrapper: str = ""
    here: bool = False
    places: tuple[Place, ...] = ()


class Twin(msgspec.Struct, frozen=True, order=True):
    """`path` of the foreign program, `program` of the native one below `HIDDEN`. One of `conditions` has to
    hold, where there are any; if none does, the next twin in a table counts if it is for the same file.
    `append` are arguments that it gets behind all others.

    With a `trial` the twin is tried: what it says is held back, and if it fails nothing of that is seen, but
    the program is emulated. From the moment that it says `trial` it is no longer one: then all that it says
    is passed on, and how it ends is how the program ends. A text that it never says makes that no sooner
    than it has ended well.

    If it `expands`, an argument `@FILE` stands for the words in that file: rules are for these, and the twin
    gets them (`response`). No file among the arguments may have one of the texts `without` (`inputs`)."""

    path: str
    program: str
    identities: tuple[Identity, ...]
    conditions: tuple[Condition, ...] = ()
    arguments: tuple[ArgumentRule, ...] = ()
    append: tuple[str, ...] = ()
    trial: str = ""
    expands: bool = False
    without: tuple[str, ...] = ()


def identity(head: bytes, *, size: int, mtime: int) -> Identity | None:
    """Of a file that begins with `head`, None for one of less than a page: it has no twin."""
    if len(head) < PAGE:
        return None
    return Identity(size, mtime, _hash(struct.unpack(f"<{PAGE // 8}Q", head[:PAGE])))


def _hash(words: Iterable[int]) -> int:
    value = BASIS
    for word in words:
        value = (value ^ word) * PRIME & WORD
    return value


def read_log(raw: bytes, count: int) -> dict[int, dict[int, int]]:
    """How often each of `count` twins met each verdict. What a step has written there itself is left out."""
    found: dict[int, dict[int, int]] = {}
    for place in range(0, len(raw) - len(raw) % RECORD.size, RECORD.size):
        number, verdict = RECORD.unpack_from(raw, place)
        if number < count and RAN <= verdict <= INPUT:
            counts = found.setdefault(number, {})
            counts[verdict] = counts.get(verdict, 0) + 1
    return found
