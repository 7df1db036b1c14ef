"""Native programs made to compute with words of 32 bits, as those of the target do.

The linker puts symbols into its tables in the order of their hashes, which are as wide as a `long`
(binutils, bfd/hash.c). Names of C++ are long enough to fill more than 32 bits.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from anyarch.elf.edit import EM_X86_64
from anyarch.errors import NotSupported

if TYPE_CHECKING:
    from anyarch.elf.edit import Program

__all__ = ["narrow_hashes"]

_HASHING = ("bfd_hash_lookup", "bfd_hash_rename")
# add %rdx, %rax; perhaps xor %edx, %edx; mov; shr $2; xor: a letter is put into the hash, or its length
_MIX = re.compile(
    rb"(\x48)\x01\xd0(?:\x31\xd2)?(\x48)\x89[\xc0-\xff](\x48)\xc1[\xe8-\xef]\x02(\x48)\x31[\xc0-\xff]",
    re.DOTALL,
)
_NARROW = 0x40  # the prefix of 64 bit operations (0x48) without their bit


def narrow_hashes(program: Program) -> None:
    """Change libbfd so that hashes are of 32 bits. Raises `NotSupported` for code that is not as expected."""
    for name in _HASHING:
        code = program.function(name)
        found = list(_MIX.finditer(program.raw, code.start, code.stop))
        # after each letter, and after the last one
        if program.machine != EM_X86_64 or len(found) != 2:
            raise NotSupported(f"{program.what} has another code for hashes than is known")
        for place in (match.start(group) for match in found for group in range(1, 5)):
            program.raw[place] = _NARROW
