"""The order of two registers, swapped in code as compilers for amd64 write it."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, cast

import pytest

from anyarch.emulation.accelerate.evaluation import evaluates_as_native, in_native_order
from anyarch.errors import NotSupported

if TYPE_CHECKING:
    from anyarch.elf.edit import Program

MAKE, TAKE, OTHER = 0x800000, 0xE00000, 0x700000
MODE = b"\xbf\x1e\0\0\0"  # mov $0x1e, %edi
KEEP = {"rbp": b"\x48\x89\xc5", "r12": b"\x49\x89\xc4"}  # mov %rax, …
FIRST = {"rbp": b"\x49\x89\xe9", "r12": b"\x4d\x89\xe1"}  # mov …, %r9
SECOND = b"\x49\x89\xc0"  # mov %rax, %r8
MORE = b"\x48\x89\xd9"  # mov %rbx, %rcx
AS_IT_IS_TO_BE = [MODE, MAKE, KEEP["r12"], MODE, MAKE, MORE, b"\x49\x89\xc1", b"\x4d\x89\xe0", TAKE]


class Code:
    """Three functions and what they call."""

    what = "cc1"

    def __init__(self, *functions: list[bytes | int]) -> None:
        self.raw = bytearray(b"\x90" * 32)
        self.places: list[range] = []
        for parts in functions:
            start = len(self.raw)
            for part in parts:
                if isinstance(part, int):
                    after = len(self.raw) + 5
                    self.raw += b"\xe8" + struct.pack("<i", part - after)
                else:
                    self.raw += part
            self.raw += b"\xc3"
            self.places.append(range(start, len(self.raw)))

    def function(self, name: str) -> range:
        names = ("_Z11gen_ashldi3P", "_Z11gen_ashrdi3P", "_Z11gen_lshrdi3P")
        for number, each in enumerate(names):
            if name.startswith(each):
                return self.places[number]
        start = MAKE if "gen_reg_rtx" in name else TAKE
        return range(start, start + 16)

    def changed(self) -> bytes:
        in_native_order(cast("Program", self))
        return bytes(self.raw)


def shift(keeper: str = "rbp") -> list[bytes | int]:
    return [OTHER, MODE, MAKE, MODE, KEEP[keeper], MAKE, MORE, FIRST[keeper], SECOND, MODE, TAKE, MORE]


def test_the_register_that_is_made_first_becomes_the_first_of_the_two() -> None:
    code = Code(shift(), shift("r12"), [*shift()[:7], SECOND, FIRST["rbp"], TAKE])
    before = bytes(code.raw)
    after = code.changed()

    swapped = {b"\x49\x89\xe9": b"\x49\x89\xe8", b"\x4d\x89\xe1": b"\x4d\x89\xe0", SECOND: b"\x49\x89\xc1"}
    for old, new in swapped.items():
        before = before.replace(old, new)
    assert after == before


@pytest.mark.parametrize(
    "function",
    [
        [MODE, OTHER, TAKE],
        [MODE, MAKE, SECOND, MODE, MAKE, TAKE],
        AS_IT_IS_TO_BE,
        [MODE, MAKE, KEEP["rbp"], MAKE, b"\x90", FIRST["rbp"], SECOND, TAKE],
        [MODE, MAKE, KEEP["rbp"], MAKE, FIRST["r12"], SECOND, TAKE],
        [MODE, MAKE, KEEP["rbp"], MAKE, FIRST["rbp"], SECOND, OTHER],
        [MODE, MAKE, KEEP["rbp"], MAKE, FIRST["rbp"], SECOND],
        [*shift(), *shift()],
    ],
)
def test_code_of_another_kind_is_refused(function: list[bytes | int]) -> None:
    with pytest.raises(NotSupported, match="cc1 makes registers for shifts in an order that is not known"):
        Code(shift(), function, shift()).changed()


def test_only_compilers_for_arm_of_amd64_are_changed() -> None:
    assert not evaluates_as_native(host="amd64", target="arm")
    assert evaluates_as_native(host="arm64", target="arm")
    assert evaluates_as_native(host="amd64", target="riscv64")
