"""What a program or library file is made for and what it needs to start: ELF, PE and Mach-O headers.

Pure: the file is seen through `read(offset, size)`, which gives fewer bytes at its end. The first 4 KiB are
enough to tell what a file is; of dynamic ELF programs the dynamic section and the names it refers to are read
too. (System V ABI; "PE Format"; mach-o/loader.h.)
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import msgspec

from anyarch.elf.header import ET_DYN, ET_EXEC, parse

if TYPE_CHECKING:
    from collections.abc import Callable

    Read = Callable[[int, int], bytes]

__all__ = ["HEAD_SIZE", "Binary", "inspect"]

HEAD_SIZE = 4096

_PT_DYNAMIC, _PT_INTERP, _PT_LOAD = 2, 3, 1
_DT_NEEDED, _DT_STRTAB, _DT_STRSZ, _DT_RPATH, _DT_RUNPATH = 1, 5, 10, 15, 29
_DT_WANTED = frozenset((_DT_NEEDED, _DT_STRTAB, _DT_STRSZ, _DT_RPATH, _DT_RUNPATH))
_PT_WANTED = frozenset((_PT_DYNAMIC, _PT_INTERP, _PT_LOAD))
_MOST_DYNAMIC, _MOST_NAMES, _MOST_NAME, _MOST_SEGMENTS = 64 << 10, 64 << 10, 4096, 512
_SEGMENT_64 = {mark: struct.Struct(mark + "IIQQQQ16x") for mark in "<>"}
_SEGMENT_32 = {mark: struct.Struct(mark + "5I12x") for mark in "<>"}
_EM_ARM, _EM_RISCV = 40, 243
_ARM_SOFT, _ARM_HARD = 0x200, 0x400  # EF_ARM_ABI_FLOAT_*, of EABI 5
_RISCV_FLOATS = ("soft", "single", "double", "quad")

_PE_MACHINES = {0x14C: "386", 0x8664: "amd64", 0xAA64: "arm64", 0x1C0: "arm", 0x1C4: "arm"}
_MACHO_CPUS = {7: "386", 0x01000007: "amd64", 12: "arm", 0x0100000C: "arm64", 0x01000012: "ppc64"}
_MACHO = {
    b"\xce\xfa\xed\xfe": ("<", 32),
    b"\xcf\xfa\xed\xfe": ("<", 64),
    b"\xfe\xed\xfa\xce": (">", 32),
    b"\xfe\xed\xfa\xcf": (">", 64),
}
_FAT = b"\xca\xfe\xba\xbe"  # also of Java class files, whose version is where the number of slices is
_MOST_SLICES = 20


class Binary(msgspec.Struct, frozen=True, array_like=True):
    """`format` is elf, pe or macho. `architectures` are as platforms spell them, several in a universal
    Mach-O file; an unknown one is `machine N`. `bits` and `order` (little, big) are 0 and empty where they
    follow from it. `float_abi` is hard or soft of an arm program that says so, on riscv soft, single, double
    or quad. `is_native` is False for a PE file of portable code (.NET). `needed`, `search` (rpath and
    runpath, split) and `interpreter` are those of ELF."""

    format: str
    architectures: tuple[str, ...]
    bits: int = 0
    order: str = ""
    float_abi: str = ""
    interpreter: str = ""
    needed: tuple[str, ...] = ()
    search: tuple[str, ...] = ()
    is_native: bool = True


def inspect(read: Read, *, of_library: bool = False) -> Binary | None:
    """What the file is; None when it is no program or library, or damaged beyond telling. Of a library
    `needed` and `search` are read with `of_library` only: each costs two further reads of the file."""
    head = read(0, HEAD_SIZE)
    try:
        if head[:4] == b"\x7fELF":
            return _elf(head, read, of_library=of_library)
        if head[:2] == b"MZ":
            return _pe(head, read)
        if head[:4] in _MACHO:
            mark, bits = _MACHO[head[:4]]
            (cpu,) = struct.unpack_from(mark + "I", head, 4)
            return Binary("macho", (_cpu(cpu),), bits)
        if head[:4] == _FAT:
            return _fat(head)
    except struct.error:
        return None
    return None


def _elf(head: bytes, read: Read, *, of_library: bool) -> Binary | None:
    header = parse(head[:20])  # without its interpreter, which is found below
    if header is None or header.kind not in (ET_EXEC, ET_DYN):
        return None  # object files and kernel modules are data to the image
    mark = "<" if header.order == "little" else ">"
    name = header.architecture or f"machine {header.machine}"
    (flags,) = struct.unpack_from(mark + "I", head, 48 if header.bits == 64 else 36)
    segments = _segments(head, read, header.bits, mark)
    interpreter = b""
    needed: list[str] = []
    search: list[str] = []
    for kind, offset, _, size in segments:  # PT_INTERP comes before PT_DYNAMIC
        if kind == _PT_INTERP and size <= HEAD_SIZE:
            interpreter = _part(head, read, offset, size).split(b"\0", 1)[0]
        elif kind == _PT_DYNAMIC and (interpreter or name == "arm" or of_library):
            # The float ABI of arm is said of what is dynamic.
            table = _part(head, read, offset, min(size, _MOST_DYNAMIC))
            needed, search = _dynamic(table, segments, read, header.bits, mark)
    return Binary(
        "elf",
        (name,),
        header.bits,
        header.order,
        _float_abi(header.machine, flags),
        interpreter.decode("utf-8", "replace"),
        tuple(needed),
        tuple(search),
    )


def _float_abi(machine: int, flags: int) -> str:
    if machine == _EM_ARM and flags >> 24 == 5:
        return "hard" if flags & _ARM_HARD else "soft" if flags & _ARM_SOFT else ""
    if machine == _EM_RISCV:
        return _RISCV_FLOATS[flags >> 1 & 3]
    return ""


def _part(head: bytes, read: Read, offset: int, size: int) -> bytes:
    return head[offset : offset + size] if offset + size <= len(head) else read(offset, size)


def _segments(head: bytes, read: Read, bits: int, mark: str) -> list[tuple[int, int, int, int]]:
    """(type, offset, address, size in the file) of each program header of the kinds that are looked at."""
    if bits == 64:
        (table,) = struct.unpack_from(mark + "Q", head, 32)
        size, count = struct.unpack_from(mark + "HH", head, 54)
    else:
        (table,) = struct.unpack_from(mark + "I", head, 28)
        size, count = struct.unpack_from(mark + "HH", head, 42)
    if not count or count > _MOST_SEGMENTS or size < (56 if bits == 64 else 32):
        return []
    raw = _part(head, read, table, size * count)
    # the fields that are asked for, and what follows them up to the next header
    layout = (_SEGMENT_64 if bits == 64 else _SEGMENT_32)[mark]
    if size != layout.size:
        layout = struct.Struct(f"{layout.format}{size - layout.size}x")
    rows = layout.iter_unpack(raw[: len(raw) // size * size])
    if bits == 64:
        return [
            (kind, offset, address, length)
            for kind, _, offset, address, _, length in rows
            if kind in _PT_WANTED
        ]
    return [
        (kind, offset, address, length) for kind, offset, address, _, length in rows if kind in _PT_WANTED
    ]


def _dynamic(
    table: bytes, segments: list[tuple[int, int, int, int]], read: Read, bits: int, mark: str
) -> tuple[list[str], list[str]]:
    """The names of needed libraries, and the directories the file says to look in."""
    entries: dict[int, list[int]] = {}
    layout = struct.Struct(mark + ("QQ" if bits == 64 else "II"))
    for tag, value in layout.iter_unpack(table[: len(table) // layout.size * layout.size]):
        if tag in _DT_WANTED:
            entries.setdefault(tag, []).append(value)
        elif not tag:
            break
    if _DT_STRTAB not in entries or _DT_STRSZ not in entries:
        return [], []
    address, length = entries[_DT_STRTAB][0], entries[_DT_STRSZ][0]
    offset = next(
        (
            at + address - start
            for kind, at, start, size in segments
            if kind == _PT_LOAD and start <= address < start + size
        ),
        -1,
    )
    if offset < 0:
        return [], []

    # from a large library each by itself: its table has megabytes of other names
    names = read(offset, length) if length <= _MOST_NAMES else b""

    def name(position: int) -> str:
        size = max(0, min(_MOST_NAME, length - position))
        raw = names[position : position + size] if names else read(offset + position, size)
        return raw.split(b"\0", 1)[0].decode("utf-8", "replace")

    needed = [name(position) for position in entries.get(_DT_NEEDED, ())]
    paths = entries.get(_DT_RUNPATH) or entries.get(_DT_RPATH) or []
    search = [part for position in paths for part in name(position).split(":") if part]
    return [found for found in needed if found], search


def _pe(head: bytes, read: Read) -> Binary | None:
    (start,) = struct.unpack_from("<I", head, 0x3C)
    # signature, COFF header, the optional header up to its last data directory
    raw = _part(head, read, start, 24 + 240)
    if raw[:4] != b"PE\0\0":
        return None
    (machine,) = struct.unpack_from("<H", raw, 4)
    return Binary("pe", (_PE_MACHINES.get(machine, f"machine {machine}"),), is_native=not _is_portable(raw))


def _is_portable(raw: bytes) -> bool:
    """Whether the file is .NET code: data directory 14 of the optional header is set."""
    (kind,) = struct.unpack_from("<H", raw, 24)
    directories = 24 + (112 if kind == 0x20B else 96)
    if len(raw) < directories + 15 * 8:
        return False
    (address,) = struct.unpack_from("<I", raw, directories + 14 * 8)
    return bool(address)


def _fat(head: bytes) -> Binary | None:
    (count,) = struct.unpack_from(">I", head, 4)
    if not 0 < count <= _MOST_SLICES:
        return None
    cpus = [struct.unpack_from(">I", head, 8 + 20 * number)[0] for number in range(count)]
    return Binary("macho", tuple(_cpu(cpu) for cpu in cpus))


def _cpu(number: int) -> str:
    return _MACHO_CPUS.get(number, f"machine {number}")
