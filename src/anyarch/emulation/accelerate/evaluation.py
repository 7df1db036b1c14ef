"""Cross compilers made to evaluate arguments in the order in which the native one does.

C++ leaves open which argument of a call is evaluated first. GCC takes the last one on amd64 and the first one
on other machines. So where GCC's own source makes two registers in the arguments of one call, a compiler that
was compiled on amd64 numbers them the other way round, and now and then that decides which of two values
gets which place on the stack. It does so when it expands shifts of 64 bits for arm (gcc/config/arm/arm.md,
ashldi3, ashrdi3, lshrdi3). A search of compilers' machine code for such calls found no others.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from anyarch.errors import NotSupported

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anyarch.elf.edit import Program

__all__ = ["evaluates_as_native", "in_native_order"]

_MAKE = "_Z11gen_reg_rtx12machine_mode"
_TAKE = "_Z29arm_emit_coreregs_64bit_shift8rtx_codeP7rtx_defS1_S1_S1_S1_"
_SHIFTS = tuple(f"_Z11gen_{name}di3P7rtx_defS0_S0_" for name in ("ashl", "ashr", "lshr"))
_RAX, _R8, _R9 = 0, 8, 9
_MOVE_CONSTANT, _CALL = 0xBF, 0xE8  # mov $…, %edi and call


def evaluates_as_native(*, host: str, target: str) -> bool:
    """Whether compilers for a target number registers as its own do, without being changed."""
    return host != "amd64" or target != "arm"


def in_native_order(program: Program) -> None:
    """Let the three pass the register that they make first as the first of the two. Raises `NotSupported`
    for code that is not as expected."""
    make, take, *shifts = (program.function(name) for name in (_MAKE, _TAKE, *_SHIFTS))
    for code in shifts:
        found = [
            places
            for at in code
            if program.raw[at] == _CALL
            and (places := _swapped(program.raw, at, end=code.stop, make=make.start, take=take.start))
        ]
        if len(found) != 1:
            raise NotSupported(f"{program.what} makes registers for shifts in an order that is not known")
        for place in found[0]:
            program.raw[place] ^= 1  # %r8 and %r9 differ by that


def _swapped(raw: bytearray, at: int, *, end: int, make: int, take: int) -> tuple[int, int] | None:
    """Where the last bytes of the moves to %r8 and %r9 are, if the code at a place of the file makes two
    registers, keeps the first one and passes the second one in %r8 and the first one in %r9."""
    calls = 0
    holds: dict[int, int] = {}  # register -> which of the two
    places: dict[int, int] = {}
    for place, kind, source, destination in _instructions(raw, at, end):
        if kind == "move":
            holds[destination] = holds.get(source, -1)
            places[destination] = place
        elif kind == "call":
            if source != (make, make, take)[calls]:
                return None
            if calls == 2:
                in_order = (holds.get(_R8), holds.get(_R9)) == (1, 0)
                return (places[_R8], places[_R9]) if in_order else None
            holds |= {_RAX: calls, _R8: -1, _R9: -1}  # a call keeps none of these
            calls += 1
    return None


def _instructions(raw: bytearray, at: int, end: int) -> Iterator[tuple[int, str, int, int]]:
    """As long as it is one of three: a call (where its target is in the file), a move between registers of 64
    bits (the place of its last byte, and both registers), a constant for the first argument."""
    while at + 5 <= end:
        if raw[at] == _CALL:
            yield at, "call", at + 5 + struct.unpack_from("<i", raw, at + 1)[0], -1
            at += 5
        elif raw[at] == _MOVE_CONSTANT:
            yield at, "constant", -1, -1
            at += 5
        elif raw[at] & 0xFA == 0x48 and raw[at + 1] == 0x89 and raw[at + 2] >= 0xC0:  # REX.W(RB) 89 /r
            source = (raw[at + 2] >> 3 & 7) | (raw[at] & 4) << 1
            destination = (raw[at + 2] & 7) | (raw[at] & 1) << 3
            yield at + 2, "move", source, destination
            at += 3
        else:
            return
