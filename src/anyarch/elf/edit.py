"""Changes to finished ELF programs of 64 bit: a further segment, another dynamic loader, longer texts.

All of it keeps every address that the program knows. A further segment takes the place of a PT_NOTE in the
table of program headers (notes are for people and debuggers) and lies behind all others.
"""

from __future__ import annotations

import re
import struct
from typing import TYPE_CHECKING

from anyarch.elf.header import ET_EXEC, parse
from anyarch.errors import NotSupported

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["Program", "Segment", "is_printable"]

PT_LOAD, PT_INTERP, PT_NOTE = 1, 3, 4
PF_X, PF_W, PF_R = 1, 2, 4
_PHDR = struct.Struct("<IIQQQQQQ")
_PAGE = 0x10000  # the largest page size in use
_SHT_RELA, _SHT_DYNSYM = 4, 11
_SECTION = struct.Struct("<4xI16xQQI20x")
_SYMBOL = struct.Struct("<IBBHQQ")
_LEA = re.compile(rb"[\x48\x4c]\x8d[\x05\x0d\x15\x1d\x25\x2d\x35\x3d]")  # lea address(%rip), %reg
EM_X86_64 = 62
_RELATIVE = {EM_X86_64: 8, 183: 1027}  # R_X86_64_RELATIVE, R_AARCH64_RELATIVE


class Segment:
    """One program header."""

    kind: int
    flags: int
    offset: int
    address: int
    file_size: int
    memory_size: int
    align: int
    __slots__ = ("address", "align", "file_size", "flags", "kind", "memory_size", "offset")

    def __init__(self, raw: bytes) -> None:
        self.kind, self.flags, self.offset, self.address, _, self.file_size, self.memory_size, self.align = (
            _PHDR.unpack(raw)
        )

    def pack(self) -> bytes:
        return _PHDR.pack(
            self.kind,
            self.flags,
            self.offset,
            self.address,
            self.address,
            self.file_size,
            self.memory_size,
            self.align,
        )


class Program:
    """A little-endian 64 bit ELF program or library that is being changed. Raises `NotSupported`."""

    def __init__(self, raw: bytes, what: str) -> None:
        header = parse(raw[:4096])
        if header is None or header.bits != 64 or header.order != "little":
            raise NotSupported(f"{what} is not a little-endian 64 bit program")
        self.what = what
        self.machine = header.machine
        self.kind = header.kind
        self.raw = bytearray(raw)
        (self.entry, self._table) = struct.unpack_from("<QQ", raw, 24)
        size, count = struct.unpack_from("<HH", raw, 54)
        if size != _PHDR.size:
            raise NotSupported(f"{what} has program headers of an unknown size")
        self.segments = [
            Segment(raw[self._table + n * size : self._table + (n + 1) * size]) for n in range(count)
        ]

    def finished(self) -> bytes:
        """The changed file."""
        for number, segment in enumerate(self.segments):
            _PHDR.pack_into(self.raw, self._table + number * _PHDR.size, *_PHDR.unpack(segment.pack()))
        struct.pack_into("<Q", self.raw, 24, self.entry)
        return bytes(self.raw)

    def offset_of(self, address: int) -> int | None:
        """Where in the file the byte at `address` is."""
        for segment in self.segments:
            if segment.kind == PT_LOAD and segment.address <= address < segment.address + segment.file_size:
                return segment.offset + address - segment.address
        return None

    def address_of(self, offset: int) -> int | None:
        for segment in self.segments:
            if segment.kind == PT_LOAD and segment.offset <= offset < segment.offset + segment.file_size:
                return segment.address + offset - segment.offset
        return None

    def function(self, name: str) -> range:
        """File offsets of the code that a dynamic symbol names. Raises `NotSupported` if there is none."""
        text = name.encode() + b"\0"
        sections = self._sections()
        for kind, offset, size, link in sections:
            if kind != _SHT_DYNSYM or link >= len(sections):
                continue
            strings = sections[link][1]
            table = self.raw[offset : offset + size - size % _SYMBOL.size]
            for index, _, _, section, address, length in _SYMBOL.iter_unpack(table):
                if section and self.raw.startswith(text, strings + index):
                    start = self.offset_of(address)
                    if start is not None:
                        return range(start, start + length)
        raise NotSupported(f"{self.what} has no symbol {name}")

    def add_segment(self, make: Callable[[int], bytes], *, flags: int) -> int:
        """Load what `make(address)` gives; the address is returned."""
        note = next((n for n, segment in enumerate(self.segments) if segment.kind == PT_NOTE), None)
        if note is None:
            raise NotSupported(f"{self.what} has no place for a further segment")
        loads = [n for n, segment in enumerate(self.segments) if segment.kind == PT_LOAD]
        end = max(self.segments[n].address + self.segments[n].memory_size for n in loads)
        address = -(-end // _PAGE) * _PAGE
        self.raw += bytes(-len(self.raw) % _PAGE)
        data = make(address)
        segment = Segment(struct.pack("<IIQQQQQQ", PT_LOAD, flags, len(self.raw), address, address, 0, 0, 0))
        segment.file_size = segment.memory_size = len(data)
        segment.align = _PAGE
        self.raw += data
        # PT_LOADs stand in the order of their addresses
        self.segments.pop(note)
        last = max(n for n, each in enumerate(self.segments) if each.kind == PT_LOAD)
        self.segments.insert(last + 1, segment)
        return address

    def set_interpreter(self, path: str) -> None:
        """Another dynamic loader, whose path may not be longer than that of the present one."""
        found = next((segment for segment in self.segments if segment.kind == PT_INTERP), None)
        raw = path.encode() + b"\0"
        if found is None or len(raw) > found.file_size:
            raise NotSupported(f"{self.what} has no place for the path of a dynamic loader")
        self.raw[found.offset : found.offset + found.file_size] = raw.ljust(found.file_size, b"\0")

    def texts(self, old: bytes) -> list[int]:
        """File offsets of a text that stands alone: no letter before it, a NUL behind it."""
        return [
            place
            for place in _find_all(self.raw, old + b"\0", 0, len(self.raw))
            if place and not is_printable(self.raw[place - 1])
        ]

    def replace_texts(self, pairs: Mapping[bytes, bytes]) -> None:
        """Put another text wherever one stands. Longer ones go to a further segment, to which all that refers
        to the old ones is led."""
        moved: list[tuple[int, bytes, list[tuple[int, Callable[[int], bytes]]]]] = []
        block = bytearray()
        for old, new in pairs.items():
            places = self.texts(old)
            if not places:
                raise NotSupported(f"{self.what} lacks the text {_shown(old)}")
            if len(new) <= len(old):
                for place in places:
                    self.raw[place : place + len(old)] = new.ljust(len(old), b"\0")
                continue
            found = [
                reference
                for address in map(self.address_of, places)
                if address is not None
                for reference in self._references(address)
            ]
            if not found:
                raise NotSupported(f"nothing in {self.what} refers to {_shown(old)}")
            moved.append((len(block), new, found))
            block += new + b"\0"
        if moved:
            target = self.add_segment(lambda _: bytes(block), flags=PF_R)
            for offset, _, found in moved:
                for place, encode in found:
                    raw = encode(target + offset)
                    self.raw[place : place + len(raw)] = raw

    def pointers_to(self, address: int) -> list[int]:
        """File offsets of the words in the data that hold `address`: plain ones of a program with fixed
        addresses."""
        if self.kind != ET_EXEC:
            raise NotSupported(f"{self.what} has no fixed addresses")
        return [
            place
            for segment in self.segments
            if segment.kind == PT_LOAD and not segment.flags & PF_X
            for place in _find_all(
                self.raw, struct.pack("<Q", address), segment.offset, segment.offset + segment.file_size
            )
            if not place % 8
        ]

    def _references(self, address: int) -> list[tuple[int, Callable[[int], bytes]]]:
        """Where the code or the data of an amd64 program names `address`, and how to name another there."""
        if self.machine != EM_X86_64:
            raise NotSupported(f"{self.what}: only programs for amd64 can be given longer texts")
        found: list[tuple[int, Callable[[int], bytes]]] = []
        absolute = struct.pack("<I", address) if self.kind == ET_EXEC and address < 1 << 31 else b""
        for segment in self.segments:
            if segment.kind != PT_LOAD:
                continue
            start, end = segment.offset, segment.offset + segment.file_size
            if segment.flags & PF_X:
                found += self._in_code(address, absolute, start, end)
            elif absolute:
                found += [
                    (place, lambda target: struct.pack("<Q", target))
                    for place in _find_all(self.raw, absolute + bytes(4), start, end)
                    if not place % 8
                ]
        return found + self._in_relocations(address)

    def _in_code(
        self, address: int, absolute: bytes, start: int, end: int
    ) -> list[tuple[int, Callable[[int], bytes]]]:
        found: list[tuple[int, Callable[[int], bytes]]] = []
        if absolute:  # mov $address, %reg; push $address; movq $address, memory
            found += [
                (place, lambda target: struct.pack("<I", target))
                for place in _find_all(self.raw, absolute, start, end)
                if 0xB8 <= self.raw[place - 1] <= 0xBF or self.raw[place - 1] == 0x68
            ]
        base = self.address_of(start)
        assert base is not None
        for match in _LEA.finditer(self.raw, start, end - 4):
            place = match.start()
            (distance,) = struct.unpack_from("<i", self.raw, place + 3)
            after = base + place + 7 - start
            if after + distance == address:
                found.append((place + 3, _relative_to(after)))
        return found

    def _in_relocations(self, address: int) -> list[tuple[int, Callable[[int], bytes]]]:
        found: list[tuple[int, Callable[[int], bytes]]] = []
        for kind, offset, length, _ in self._sections():
            if kind != _SHT_RELA:
                continue
            for place in range(offset, offset + length - 23, 24):
                _, info, addend = struct.unpack_from("<QQq", self.raw, place)
                if info == _RELATIVE[self.machine] and addend == address:
                    found.append((place + 16, lambda target: struct.pack("<q", target)))
        return found

    def _sections(self) -> list[tuple[int, int, int, int]]:
        """Kind, offset, size and link of each; none of a file without a table of them."""
        (table,) = struct.unpack_from("<Q", self.raw, 40)
        size, count = struct.unpack_from("<HH", self.raw, 58)
        if size != _SECTION.size or table + size * count > len(self.raw):
            return []
        rows = _SECTION.iter_unpack(self.raw[table : table + size * count])
        return [(kind, offset, length, link) for kind, offset, length, link in rows]


def _relative_to(after: int) -> Callable[[int], bytes]:
    return lambda target: struct.pack("<i", target - after)


def _shown(text: bytes) -> str:
    return repr(text.decode("utf-8", "replace"))


def is_printable(byte: int) -> bool:
    """Whether it can be part of a text in a program."""
    return 0x20 <= byte < 0x7F


def _find_all(raw: bytearray, needle: bytes, start: int, end: int) -> list[int]:
    found = []
    while (start := raw.find(needle, start, end)) >= 0:
        found.append(start)
        start += 1
    return found
