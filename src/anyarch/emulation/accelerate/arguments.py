"""The dispatcher's machine code for arguments: rules that stand in a twin's way, and what a twin is given."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anyarch.emulation.accelerate.entries import (
    ACCEPT,
    ARGS_AT,
    MOST_APPENDED,
    NEXT,
    PREFIX,
    REST_AT,
    SUFFIX,
    SWAP,
)
from anyarch.emulation.accelerate.texts import begins, compare, find, pass_over

if TYPE_CHECKING:
    from anyarch.elf.assembler import Assembler

__all__ = ["check_arguments"]


def check_arguments(asm: Assembler, *, given_at: int, copy_at: int, mark_at: int, free_at: int) -> None:
    """Every argument against every rule: on to what follows, or to `refuse_argument`.

    `given_at` is where in the frame the place of the arguments is, from the program's own name on. What is
    swapped is swapped in a copy, in a second pass: the emulator, if it comes to that, is to see what was
    given. The copy's place gets into the frame at `copy_at`; a word is free there at `mark_at` and `free_at`.
    """
    a, b, c, d, _entry, frame, limit, _top = range(8)
    for number in (1, 2):
        end = f"arguments_done{number}"
        if number == 1:
            asm.load(limit, frame, given_at)
            asm.add_constant(limit, 8)  # behind the program's own name
        else:
            _copy(asm, given_at=given_at, copy_at=copy_at)
        asm.label(f"argument{number}")
        asm.load(a, limit)
        asm.branch_zero(a, end)
        find(asm, ARGS_AT)
        asm.label(f"argument_rule{number}")
        asm.load(c, b, bits=8)
        asm.branch_zero(c, f"next_argument{number}")
        asm.store(c, frame, mark_at)
        asm.add_constant(b, 1)
        asm.load(a, limit)
        if number == 1:
            asm.constant(d, SUFFIX[0])
            asm.branch("eq", c, d, "argument_suffix")
        begins(asm, f"argument_compare{number}", so=f"argument_prefix{number}")
        pass_over(asm, f"argument_skip{number}", to=f"argument_skip_value{number}")
        # every rule has a second text
        pass_over(asm, f"argument_skip_value{number}", to=f"argument_rule{number}")
        # the argument begins with the rule's text; a behind it, b at the second text
        asm.label(f"argument_prefix{number}")
        asm.load(c, frame, mark_at)
        if number == 1:
            asm.constant(d, PREFIX[0])
            asm.branch("eq", c, d, "refuse_argument")
            asm.constant(d, ACCEPT[0])
            asm.branch("eq", c, d, "next_argument1")
        asm.load(d, a, bits=8)
        asm.branch_zero(d, f"argument_equal{number}")
        asm.jump(f"argument_skip_value{number}")
        asm.label(f"argument_equal{number}")
        if number == 1:
            # SWAP: it is known, whatever rules come behind; NEXT: the argument behind it has to be its value
            asm.constant(d, SWAP[0])
            asm.branch("eq", c, d, "next_argument1")
            asm.constant(d, NEXT[0])
            asm.branch("ne", c, d, "argument_skip_value1")
            asm.load(a, limit, 8)
            asm.branch_zero(a, "refuse_argument")
            compare(asm, "value_compare", differs="refuse_argument", equal="argument_rule1")
        else:
            asm.constant(d, SWAP[0])
            asm.branch("ne", c, d, "argument_skip_value2")
            asm.store(b, limit)
        asm.label(f"next_argument{number}")
        asm.add_constant(limit, 8)
        asm.jump(f"argument{number}")
        if number == 1:
            _check_suffix(asm, text_at=copy_at, argument_at=free_at)
        asm.label(end)


def _check_suffix(asm: Assembler, *, text_at: int, argument_at: int) -> None:
    """Whether the argument at a ends with the text at b."""
    a, b, _c, d, _entry, frame = range(6)
    asm.label("argument_suffix")
    asm.store(b, frame, text_at)
    asm.label("suffix_from")
    asm.store(a, frame, argument_at)
    asm.load(b, frame, text_at)
    compare(asm, "suffix_compare", differs="suffix_differs", equal="refuse_argument")
    asm.label("suffix_differs")
    asm.load(a, frame, argument_at)
    asm.load(d, a, bits=8)
    asm.add_constant(a, 1)
    asm.load(b, frame, text_at)
    asm.branch_zero(d, "argument_skip1")
    asm.jump("suffix_from")


def _copy(asm: Assembler, *, given_at: int, copy_at: int) -> None:
    """Below the frame: argv from the program's own name on and what the twin is given behind it. `limit` is
    at that name then, which may be swapped too, and the place of the copy is in the frame."""
    a, b, c, d, _entry, frame, limit, _top = range(8)
    asm.load(c, frame, given_at)
    asm.move(d, frame)
    asm.label("copy_room")
    asm.add_constant(d, -8)
    asm.load(a, c)
    asm.add_constant(c, 8)
    asm.branch_zero(a, "copy_begin")
    asm.jump("copy_room")
    asm.label("copy_begin")
    asm.add_constant(d, -8 * (MOST_APPENDED + 2))
    asm.constant(a, -16)
    asm.mask(d, a)
    asm.stack_from(d)
    asm.store(d, frame, copy_at)
    asm.move(limit, d)
    asm.load(c, frame, given_at)
    asm.label("copy")
    asm.load(a, c)
    asm.branch_zero(a, "copy_rest")
    asm.store(a, d)
    asm.add_constant(c, 8)
    asm.add_constant(d, 8)
    asm.jump("copy")
    asm.label("copy_rest")
    find(asm, REST_AT)  # texts, each behind the mark ITEM
    asm.label("rest")
    asm.load(a, b, bits=8)
    asm.branch_zero(a, "rest_done")
    asm.add_constant(b, 1)
    asm.store(b, d)
    asm.add_constant(d, 8)
    pass_over(asm, "rest_skip", to="rest")
    asm.label("rest_done")
    asm.constant(a, 0)
    asm.store(a, d)
