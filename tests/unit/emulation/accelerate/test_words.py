"""Hashes of 64 bits that become hashes of 32, in code as compilers for amd64 write it."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import pytest

from anyarch.emulation.accelerate.words import narrow_hashes
from anyarch.errors import NotSupported

if TYPE_CHECKING:
    from anyarch.elf.edit import Program

LETTER = b"\x48\x01\xd0\x48\x89\xc2\x48\xc1\xea\x02\x48\x31\xd0"  # add; mov; shr; xor
LENGTH = b"\x48\x01\xd0\x31\xd2\x48\x89\xc1\x48\xc1\xe9\x02\x48\x31\xc1"
NARROW_LETTER = b"\x40\x01\xd0\x40\x89\xc2\x40\xc1\xea\x02\x40\x31\xd0"
NARROW_LENGTH = b"\x40\x01\xd0\x31\xd2\x40\x89\xc1\x40\xc1\xe9\x02\x40\x31\xc1"
OTHER = b"\x48\x89\xc1\x48\x01\xd0\xc3"


class Library:
    """What libbfd's two functions are, and code before and behind them."""

    what = "libbfd"

    def __init__(self, first: bytes, second: bytes, machine: int = 62) -> None:
        self.machine = machine
        self.names = ("bfd_hash_lookup", "bfd_hash_rename")
        self.code = (range(32, 32 + len(first)), range(32 + len(first), 32 + len(first) + len(second)))
        self.raw = bytearray(LETTER.ljust(32, b"\x90") + first + second + LETTER)

    def function(self, name: str) -> range:
        return self.code[self.names.index(name)]

    def changed(self) -> bytes:
        narrow_hashes(cast("Program", self))
        return bytes(self.raw)


def test_what_makes_hashes_is_narrowed_and_nothing_else() -> None:
    functions = OTHER + LETTER + OTHER + LENGTH + OTHER, LETTER + LENGTH
    narrow = OTHER + NARROW_LETTER + OTHER + NARROW_LENGTH + OTHER, NARROW_LETTER + NARROW_LENGTH

    assert Library(*functions).changed() == bytes(Library(*narrow).raw)


@pytest.mark.parametrize(
    ("library", "machine"),
    [(LETTER, 62), (OTHER, 62), (LETTER + LENGTH + LETTER, 62), (NARROW_LETTER, 62), (LETTER + LENGTH, 183)],
)
def test_code_of_another_kind_is_refused(library: bytes, machine: int) -> None:
    with pytest.raises(NotSupported, match="libbfd has another code for hashes than is known"):
        Library(LETTER + LENGTH, library, machine).changed()
