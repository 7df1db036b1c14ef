"""ELF file headers: for which machine a program is, and what it needs to start (System V ABI, elf(5))."""

from __future__ import annotations

import os
import struct

import msgspec

__all__ = ["ET_DYN", "ET_EXEC", "Header", "identity_of", "interpreter_of", "machine_name", "parse"]

ET_EXEC, ET_DYN = 2, 3
_PT_INTERP = 3

# (e_machine, bits, byte order) → Linux platform architecture
_ARCHITECTURES = {
    (3, 32, "little"): "386",
    (62, 64, "little"): "amd64",
    (40, 32, "little"): "arm",
    (183, 64, "little"): "arm64",
    (258, 64, "little"): "loong64",
    (8, 32, "big"): "mips",
    (8, 32, "little"): "mipsle",
    (8, 64, "big"): "mips64",
    (8, 64, "little"): "mips64le",
    (20, 32, "big"): "ppc",
    (21, 64, "big"): "ppc64",
    (21, 64, "little"): "ppc64le",
    (243, 64, "little"): "riscv64",
    (22, 64, "big"): "s390x",
}


_MACHINES = {architecture: fields for fields, architecture in _ARCHITECTURES.items()}


class Header(msgspec.Struct, frozen=True):
    """`bits` is 32 or 64, `order` little or big, `kind` e_type, `machine` e_machine; `interpreter` the
    dynamic loader, empty for a static program or when it lies beyond the bytes that were given.
    """

    bits: int
    order: str
    kind: int
    machine: int
    interpreter: str = ""

    @property
    def architecture(self) -> str:
        """As platforms spell it (`arm64`); empty for machines that have no such name."""
        return _ARCHITECTURES.get((self.machine, self.bits, self.order), "")

    @property
    def is_program(self) -> bool:
        return self.kind in (ET_EXEC, ET_DYN)


def parse(head: bytes) -> Header | None:
    """The header at the start of a file (its first page is enough as a rule); None when it is no ELF file."""
    if len(head) < 20 or head[:4] != b"\x7fELF" or head[4] not in (1, 2) or head[5] not in (1, 2):
        return None
    bits = 32 if head[4] == 1 else 64
    order, mark = ("little", "<") if head[5] == 1 else ("big", ">")
    kind, machine = struct.unpack_from(mark + "HH", head, 16)
    return Header(bits, order, kind, machine, _interpreter(head, bits, mark))


def _interpreter(head: bytes, bits: int, mark: str) -> str:
    try:
        if bits == 64:
            (table,) = struct.unpack_from(mark + "Q", head, 32)
            size, count = struct.unpack_from(mark + "HH", head, 54)
        else:
            (table,) = struct.unpack_from(mark + "I", head, 28)
            size, count = struct.unpack_from(mark + "HH", head, 42)
        for position in range(table, table + size * count, size or 1):
            (kind,) = struct.unpack_from(mark + "I", head, position)
            if kind != _PT_INTERP:
                continue
            if bits == 64:
                (offset,) = struct.unpack_from(mark + "Q", head, position + 8)
                (length,) = struct.unpack_from(mark + "Q", head, position + 32)
            else:
                (offset,) = struct.unpack_from(mark + "I", head, position + 4)
                (length,) = struct.unpack_from(mark + "I", head, position + 16)
            raw = head[offset : offset + length]
            return os.fsdecode(raw.rstrip(b"\0")) if len(raw) == length else ""
    except (struct.error, OverflowError):
        return ""  # a table beyond the bytes at hand
    return ""


def interpreter_of(head: bytes) -> str:
    """The dynamic loader of the program that starts with `head`, or an empty text."""
    header = parse(head)
    return header.interpreter if header else ""


def machine_name(head: bytes) -> str:
    """The platform architecture of the program that starts with `head`, or an empty text."""
    header = parse(head)
    return header.architecture if header else ""


def identity_of(architecture: str) -> tuple[int, str, int] | None:
    """What programs of a platform architecture have in their header: bits, byte order, e_machine."""
    found = _MACHINES.get(architecture)
    return None if found is None else (found[1], found[2], found[0])
