"""The dispatcher's machine code for files that a program would load when it runs.

Some programs load all that they find in a directory. Whether a native twin does the same then depends on what
lies there at that moment, which a step may have changed: so it is looked at each time.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from anyarch.elf.assembler import AT_FDCWD, O_CLOEXEC
from anyarch.emulation.accelerate.texts import END, ITEM, compare, find, items, pass_over

if TYPE_CHECKING:
    from collections.abc import Iterable

    from anyarch.elf.assembler import Assembler
    from anyarch.emulation.accelerate.dispatcher import Place

__all__ = ["check_places", "encoded"]

_DIRECTORY, _FILE = b"\2", b"\3"
_WORDS = struct.Struct("<2Q")
_O_DIRECTORY = {"amd64": 0o200000, "arm64": 0o40000}
_LENGTH_AT, _NAME_AT = 16, 19  # struct linux_dirent64
_ROOM = 4096


def encoded(places: Iterable[Place]) -> bytes:
    """As `check_places` reads them."""
    found = b""
    for place in places:
        mark = _FILE if place.files else _DIRECTORY
        files = (ITEM + _WORDS.pack(size, mtime % (1 << 64)) for size, mtime in place.files)
        found += mark + place.path.encode() + b"\0" + items(place.names) + b"".join(files)
    return found + END


def check_places(
    asm: Assembler, *, rules_at: int, frame_at: int, room_at: int, size_at: int, time_at: int, host: str
) -> None:
    """On to what follows if the places of an entry (`rules_at`) are as it has them, else to `refuse_places`.
    From `frame_at` on four words of the frame are free, from `room_at` on a page."""
    a, b, c, d, _entry, frame, limit, _top = range(8)
    rule, opened, place, end = (frame_at + 8 * number for number in range(4))
    find(asm, rules_at)
    asm.label("place")  # b at a mark
    asm.load(c, b, bits=8)
    asm.branch_zero(c, "places_ok")
    asm.add_constant(b, 1)
    asm.constant(d, _FILE[0])
    asm.branch("eq", c, d, "file_place")

    asm.constant(a, AT_FDCWD)
    asm.constant(c, _O_DIRECTORY[host] | O_CLOEXEC)
    asm.constant(d, 0)
    asm.move(limit, b)
    asm.system_call("openat", a, limit, c, d)
    pass_over(asm, "directory_path")
    asm.store(b, frame, rule)
    asm.store(a, frame, opened)
    asm.branch_negative(a, "directory_done")  # nothing can be loaded from there
    asm.label("directory_read")
    asm.load(a, frame, opened)
    asm.move(b, frame)
    asm.add_constant(b, room_at)
    asm.move(limit, b)
    asm.constant(c, _ROOM)
    asm.system_call("getdents64", a, b, c)
    asm.branch_negative(a, "directory_differs")
    asm.branch_zero(a, "directory_read_all")
    asm.add(a, limit)
    asm.store(a, frame, end)
    asm.label("file_found")  # limit at what is known of it
    asm.load(a, frame, end)
    asm.branch("ge", limit, a, "directory_read")
    asm.move(a, limit)
    asm.add_constant(a, _NAME_AT)
    # . and .. are in every directory
    asm.load(c, a, bits=8)
    asm.constant(d, ord("."))
    asm.branch("ne", c, d, "file_names")
    asm.load(c, a, 1, bits=8)
    asm.branch_zero(c, "file_next")
    asm.branch("ne", c, d, "file_names")
    asm.load(c, a, 2, bits=8)
    asm.branch_zero(c, "file_next")
    asm.label("file_names")
    asm.store(a, frame, place)
    asm.load(b, frame, rule)
    asm.label("file_name")  # b at a mark
    asm.load(c, b, bits=8)
    asm.constant(d, ITEM[0])
    asm.branch("ne", c, d, "directory_differs")
    asm.add_constant(b, 1)
    asm.load(a, frame, place)
    compare(asm, "file_compare", differs="file_other", equal="file_next")
    pass_over(asm, "file_other", to="file_name")
    asm.label("file_next")
    asm.load(a, limit, _LENGTH_AT, bits=32)
    asm.constant(c, 0xFFFF)
    asm.mask(a, c)
    asm.add(limit, a)
    asm.jump("file_found")
    asm.label("directory_differs")
    asm.load(a, frame, opened)
    asm.system_call("close", a)
    asm.jump("refuse_places")
    asm.label("directory_read_all")
    asm.load(a, frame, opened)
    asm.system_call("close", a)
    asm.label("directory_done")
    asm.load(b, frame, rule)
    asm.label("directory_names")
    asm.load(c, b, bits=8)
    asm.constant(d, ITEM[0])
    asm.branch("ne", c, d, "place")
    pass_over(asm, "directory_name", to="directory_names")

    asm.label("file_place")
    asm.constant(a, AT_FDCWD)
    asm.move(c, frame)
    asm.add_constant(c, room_at)
    asm.move(limit, c)
    asm.constant(d, 0)
    asm.system_call("newfstatat", a, b, c, d)
    asm.branch_negative(a, "refuse_places")
    pass_over(asm, "file_path")
    asm.constant(a, 0)  # one of the files was it
    asm.label("file_of")  # b at a mark
    asm.load(c, b, bits=8)
    asm.constant(d, ITEM[0])
    asm.branch("ne", c, d, "file_known")
    _load_word(asm, c, d, b, 1)
    asm.load(d, limit, size_at)
    asm.branch("ne", c, d, "file_unlike")
    _load_word(asm, c, d, b, 9)
    asm.load(d, limit, time_at)
    asm.branch("ne", c, d, "file_unlike")
    asm.constant(a, 1)
    asm.label("file_unlike")
    asm.add_constant(b, 1 + _WORDS.size)
    asm.jump("file_of")
    asm.label("file_known")
    asm.branch_zero(a, "refuse_places")
    asm.jump("place")
    asm.label("places_ok")


def _load_word(asm: Assembler, to: int, scratch: int, base: int, offset: int) -> None:
    """A word at any address: `load` of some machines has offsets that are multiples of its size."""
    asm.move(scratch, base)
    asm.add_constant(scratch, offset)
    asm.load(to, scratch)
