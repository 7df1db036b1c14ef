"""The dispatcher's tables: an entry for each file that has a twin, and each condition of it, and their texts.

An entry is words. Most are places of texts, which the machine code reads with `find`; a list of texts has a
mark before each of them and one at its end.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from anyarch.emulation.accelerate.dispatcher import HIDDEN, LOG, WORD, Condition
from anyarch.emulation.accelerate.inputs import LONGEST_TEXT
from anyarch.emulation.accelerate.places import encoded
from anyarch.emulation.accelerate.texts import END, items

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anyarch.elf.assembler import Assembler
    from anyarch.emulation.accelerate.dispatcher import ArgumentRule, EnvironmentRule, Twin

__all__ = [
    "ACCEPT",
    "ARGS_AT",
    "ASKED_AT",
    "CALLED_AT",
    "ENTRY",
    "ENV_AT",
    "EXPANDS_AT",
    "FIRST_AT",
    "HASH_AT",
    "HERE_AT",
    "MOST_APPENDED",
    "MTIME_AT",
    "NAME_AT",
    "NEED_AT",
    "NEXT",
    "NUMBER_AT",
    "PLACES_AT",
    "PREFIX",
    "PROGRAM_AT",
    "REST_AT",
    "SIZE_AT",
    "SUFFIX",
    "SWAP",
    "TRIAL_AT",
    "WITHOUT_AT",
    "put_tables",
]

# the marks of rules in lists of texts
PREFIX, NEXT, SWAP, ACCEPT, SUFFIX = b"\2", b"\3", b"\4", b"\5", b"\6"

ENTRY = struct.Struct("<18Q")
HASH_AT, SIZE_AT, MTIME_AT, NAME_AT, PROGRAM_AT = range(0, 40, 8)
ENV_AT, NEED_AT, FIRST_AT, ASKED_AT, CALLED_AT, HERE_AT, PLACES_AT = range(40, 96, 8)
ARGS_AT, REST_AT, NUMBER_AT, TRIAL_AT, EXPANDS_AT, WITHOUT_AT = range(96, 144, 8)
MOST_APPENDED = 30
"""So many arguments a twin gets behind its own, at most."""


def put_tables(asm: Assembler, twins: Sequence[Twin]) -> None:
    """From the label `entries` to `entries_end` an entry for each file and condition, at `texts` what their
    places are counted from, at `log` the name of the log."""
    texts = bytearray(b"\0")  # nothing at 0
    known: dict[bytes, int] = {}

    def text(raw: bytes) -> int:
        if raw not in known:
            known[raw] = len(texts)
            texts.extend(raw)
        return known[raw]

    rows = []
    for number, twin in enumerate(twins):
        name = text(twin.path.encode() + b"\0")
        program = text(f"{HIDDEN}/{twin.program}".encode() + b"\0")
        arguments = text(b"".join(map(_argument_rule, twin.arguments)) + END)
        rest, without = text(items(twin.append) + END), text(items(twin.without) + END)
        trial = text(twin.trial.encode() + b"\0") if twin.trial else 0
        assert len(twin.append) <= MOST_APPENDED
        assert all(len(each.encode()) <= LONGEST_TEXT for each in twin.without)
        conditions = [
            (
                text(b"".join(map(_environment_rule, one.rules)) + END),
                text(items(one.needs) + END),
                text(one.first.encode() + b"\0"),
                text(one.given.encode() + b"\0"),
                text(_names(one)),
                int(one.here),
                text(encoded(one.places)),
            )
            for one in twin.conditions or (Condition(),)
        ]
        for each in twin.identities:
            known_by = (each.hash, each.size, each.mtime & WORD, name, program)
            rest_of = (arguments, rest, number, trial, int(twin.expands), without)
            rows += [ENTRY.pack(*known_by, *condition, *rest_of) for condition in conditions]
    asm.align(8)
    asm.label("entries")
    asm.data(b"".join(rows))
    asm.label("entries_end")
    asm.data(bytes(ENTRY.size))  # behind the last one: of no file
    asm.label("texts")
    asm.data(bytes(texts))
    asm.label("log")
    asm.data(LOG.encode() + b"\0")


def _names(condition: Condition) -> bytes:
    if not condition.names:
        return END
    wrapper = condition.wrapper or "/"  # no name
    return PREFIX + wrapper.encode() + b"\0" + items(condition.names) + END


def _environment_rule(rule: EnvironmentRule) -> bytes:
    return PREFIX + rule.prefix.encode() + b"\0" + items(rule.allowed)


def _argument_rule(rule: ArgumentRule) -> bytes:
    mark = {"refuse": PREFIX, "end": SUFFIX, "next": NEXT, "swap": SWAP, "accept": ACCEPT}[rule.kind]
    return mark + rule.text.encode() + b"\0" + rule.value.encode() + b"\0"
