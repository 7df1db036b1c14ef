"""The dispatcher's machine code for texts, which end with NUL.

The code of one part of the dispatcher is one run of labels: each text that is compared or passed over has
labels of its own, which begin with the `label` that is given.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from anyarch.elf.assembler import Assembler

__all__ = ["END", "ITEM", "begins", "compare", "find", "items", "pass_over"]

END, ITEM = b"\0", b"\1"
"""In a list: its end, and what stands before a text."""


def items(texts: Iterable[str]) -> bytes:
    """Texts of a list, each with its mark, without the end."""
    return b"".join(ITEM + text.encode() + b"\0" for text in texts)


def find(asm: Assembler, at: int) -> None:
    """b = the address of a text of the dispatcher's entry, by way of c; `at` is its place in the entry."""
    b, c, entry = 1, 2, 4
    asm.load(b, entry, at)
    asm.address(c, "texts")
    asm.add(b, c)


def compare(asm: Assembler, label: str, *, differs: str, equal: str) -> None:
    """Two texts, at a and b: to `equal`, both behind them then, or to `differs`, both where they differ."""
    a, b, c, d = range(4)
    asm.label(label)
    asm.load(c, b, bits=8)
    asm.load(d, a, bits=8)
    asm.branch("ne", c, d, differs)
    asm.add_constant(a, 1)
    asm.add_constant(b, 1)
    asm.branch_zero(c, equal)
    asm.jump(label)


def begins(asm: Assembler, label: str, *, so: str) -> None:
    """If the text at a begins with the one at b to `so`, a at what follows and b behind its text; else on to
    what follows here, b somewhere in its text but not behind it."""
    a, b, c, d = range(4)
    asm.label(label)
    asm.load(c, b, bits=8)
    asm.add_constant(b, 1)
    asm.branch_zero(c, so)
    asm.load(d, a, bits=8)
    asm.add_constant(a, 1)
    asm.branch("eq", c, d, label)


def pass_over(asm: Assembler, label: str, *, to: str = "") -> None:
    """b behind its text, by way of c; then to a label, or on."""
    b, c = 1, 2
    asm.label(label)
    asm.load(c, b, bits=8)
    asm.add_constant(b, 1)
    asm.branch_zero(c, to or f"{label}_end")
    asm.jump(label)
    if not to:
        asm.label(f"{label}_end")
