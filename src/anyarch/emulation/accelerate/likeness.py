"""What is changed in the code and data of cross compilers, so that they look where native ones do."""

from __future__ import annotations

import re
import struct
from typing import TYPE_CHECKING

from anyarch.errors import NotSupported

if TYPE_CHECKING:
    from collections.abc import Callable

    from anyarch.elf.edit import Program

__all__ = ["native_driver", "native_linker_name", "native_table"]

# GCC's cppdefault.h: a directory, the component that it is of, four flags
_ENTRY = struct.Struct("<2Q4B4x")
# GCC's gcc.c: the name of a text, itself if it was set, where it is, the next one, the length of the name
_NAMED, _CROSS = struct.Struct("<4QI"), b"cross_compile"
# mov $constant, %edi and %esi; what may stand between those of one call
_EDI, _ESI, _ARGUMENTS_SIZE = b"\xbf", b"\xbe", 20
_MOST_ENTRIES = 6  # between the compiler's own directory and the system's


def native_table(triplet: str, gcc: str) -> Callable[[Program], None]:
    """The native compiler looks into /usr/local/include, first for the architecture and then for all, behind
    its own headers; then for fixed ones, then into /usr/include. What the cross compiler has between its own
    and /usr/include is set to that, as far as there is room."""
    own = f"/usr/lib/gcc/{triplet}/{gcc}/include".encode()

    def change(program: Program) -> None:
        system = _entries(program, b"/usr/include")
        first = min(system, default=0)
        place = [
            entry
            for entry in _entries(program, own)
            if first - _MOST_ENTRIES * _ENTRY.size <= entry < first and not (first - entry) % _ENTRY.size
        ]
        fixed = _addresses(program, own + b"-fixed")
        local = _addresses(program, b"/usr/local/include")
        if len(place) != 1 or len(system) != 2 or not fixed or not local:
            raise NotSupported(f"{program.what} has another list of directories than is known")
        slots = range(place[0] + _ENTRY.size, first, _ENTRY.size)
        component = _ENTRY.unpack_from(program.raw, place[0])[1]
        # no component that could be moved; not for C++ only, C++ knows it, no system root, with the
        # architecture's directory or not
        wanted = [(local[0], 0, 0, 1, 0, 2), (local[0], 0, 0, 1, 0, 0)]
        wanted += [(fixed[0], component, 0, 0, 0, 2), (fixed[0], component, 0, 0, 0, 0)]
        if not 2 <= len(slots) <= len(wanted):
            raise NotSupported(f"{program.what} has another list of directories than is known")
        for slot, entry in zip(slots, wanted, strict=False):
            _ENTRY.pack_into(program.raw, slot, *entry)

    return change


def native_driver(program: Program) -> None:
    """Let the driver take itself for a native one (`cross_compile` in GCC's gcc.c): it looks for the files of
    a program where that does, and in this order, which the linker's messages and maps tell.

    A table of named texts leads to the variable, whose text becomes "0"."""
    ends = [place for name in _addresses(program, _CROSS) for place in program.pointers_to(name)]
    entries = [_NAMED.unpack_from(program.raw, place) for place in ends]
    places = [where for _, own, where, behind, size in entries if (own, behind, size) == (0, 0, len(_CROSS))]
    variable = program.offset_of(places[0]) if len(places) == 1 else None
    (text,) = struct.unpack_from("<Q", program.raw, variable) if variable is not None else (0,)
    place = program.offset_of(text)
    # the end of some text behind it
    zero = None if place is None else program.address_of(program.raw.find(b"0\0", place))
    if variable is None or place is None or program.raw[place : place + 2] != b"1\0" or zero is None:
        raise NotSupported(f"{program.what} does not tell whether it is a cross compiler as expected")
    struct.pack_into("<Q", program.raw, variable, zero)


def native_linker_name(program: Program, triplet: str) -> None:
    """Let `collect2` look for `ld`, `nm` and `strip`, where it joins the triplet, a dash and these. The
    calls have both as constants: the triplet becomes empty, and the dash what is behind it."""
    calls = [
        match.start()
        for address in _addresses(program, triplet.encode())
        for match in re.finditer(re.escape(_EDI + struct.pack("<I", address)), program.raw)
    ]
    dashes = [place for call in calls if (place := _dash_near(program, call)) is not None]
    if len(set(dashes)) != len(calls) or not calls:
        raise NotSupported(f"{program.what} finds the linker in another way than is known")
    for place in dashes:
        struct.pack_into("<I", program.raw, place, struct.unpack_from("<I", program.raw, place)[0] + 1)
    program.replace_texts({triplet.encode(): b""})


def _dash_near(program: Program, call: int) -> int | None:
    """Where the second argument of a call is set, whose first is set at `call`, if that is a text that begins
    with a dash."""
    near = range(call - _ARGUMENTS_SIZE, call + _ARGUMENTS_SIZE)
    for place in sorted(near, key=lambda place: abs(place - call)):
        if program.raw[place : place + 1] != _ESI:
            continue
        text = program.offset_of(struct.unpack_from("<I", program.raw, place + 1)[0])
        if text is not None and program.raw[text : text + 1] == b"-":
            return place + 1
    return None


def _addresses(program: Program, text: bytes) -> list[int]:
    found = [program.address_of(place) for place in program.texts(text)]
    return [address for address in found if address is not None]


def _entries(program: Program, text: bytes) -> list[int]:
    """Where the table has a directory."""
    return sorted(entry for address in _addresses(program, text) for entry in program.pointers_to(address))
