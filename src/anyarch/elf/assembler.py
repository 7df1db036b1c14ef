"""A small assembler: one program, written once in operations that amd64 and arm64 both have.

It is for programs of a few hundred instructions that live without a stack frame, a C library or relocations:
code and data are one block, addressed relative to itself. Registers 0 to 7 are ours over system calls.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from anyarch.errors import NotSupported

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "AT_FDCWD",
    "HOSTS",
    "O_CLOEXEC",
    "REGISTERS",
    "SYSTEM_CALLS",
    "S_IFCHR",
    "S_IFDIR",
    "S_IFMT",
    "S_IFREG",
    "Assembler",
    "assembler_for",
]

REGISTERS = 8

# arch/x86/entry/syscalls/syscall_64.tbl, include/uapi/asm-generic/unistd.h
_NUMBERS = (
    *(("openat", 257, 56), ("newfstatat", 262, 79), ("fstat", 5, 80), ("pread64", 17, 67), ("read", 0, 63)),
    *(("write", 1, 64), ("close", 3, 57), ("fcntl", 72, 25), ("dup3", 292, 24), ("pipe2", 293, 59)),
    *(("clone", 56, 220), ("execve", 59, 221), ("wait4", 61, 260), ("exit", 231, 94), ("kill", 62, 129)),
    *(("getpid", 39, 172), ("prctl", 157, 167), ("brk", 12, 214), ("getdents64", 217, 61)),
)
SYSTEM_CALLS = {
    "amd64": {name: number for name, number, _ in _NUMBERS},
    "arm64": {name: number for name, _, number in _NUMBERS},
}

AT_FDCWD, O_CLOEXEC = -100, 0o2000000
"""Arguments of these: include/uapi/linux/fcntl.h, asm-generic/fcntl.h, the same on both machines."""

S_IFMT, S_IFREG, S_IFDIR, S_IFCHR = 0o170000, 0o100000, 0o040000, 0o020000
"""Kinds of files in `st_mode`: include/uapi/linux/stat.h."""


class Assembler:
    """Emits code for one machine; labels are texts. `finish` fills in the distances."""

    def __init__(self) -> None:
        self.code = bytearray()
        self._labels: dict[str, int] = {}
        self._fixups: list[tuple[int, str, Callable[[int], bytes]]] = []

    def label(self, name: str) -> None:
        """The next byte is called `name`."""
        assert name not in self._labels, name
        self._labels[name] = len(self.code)

    def data(self, raw: bytes) -> None:
        self.code += raw

    def align(self, size: int) -> None:
        self.code += bytes(-len(self.code) % size)

    def define(self, name: str, distance: int) -> None:
        """A label outside: `distance` bytes from the start of the code."""
        self._labels[name] = distance

    def finish(self) -> bytes:
        """The block. Every label that was used must be known."""
        for position, name, encode in self._fixups:
            raw = encode(self._labels[name])
            self.code[position : position + len(raw)] = raw
        return bytes(self.code)

    def _fix(self, name: str, size: int, encode: Callable[[int], bytes]) -> None:
        self._fixups.append((len(self.code), name, encode))
        self.code += bytes(size)

    # what each machine encodes; d and s are register numbers

    def move(self, d: int, s: int) -> None:
        raise AssertionError

    def constant(self, d: int, value: int) -> None:
        raise AssertionError

    def address(self, d: int, label: str) -> None:
        raise AssertionError

    def load(self, d: int, base: int, offset: int = 0, *, bits: int = 64) -> None:
        """64, 32 or 8 bits, the rest zero."""
        raise AssertionError

    def store(self, s: int, base: int, offset: int = 0, *, bits: int = 64) -> None:
        """64 or 8 bits."""
        raise AssertionError

    def add(self, d: int, s: int) -> None:
        raise AssertionError

    def add_constant(self, d: int, value: int) -> None:
        raise AssertionError

    def xor(self, d: int, s: int) -> None:
        raise AssertionError

    def multiply(self, d: int, s: int) -> None:
        raise AssertionError

    def mask(self, d: int, s: int) -> None:
        """d = d and s, bit by bit."""
        raise AssertionError

    def branch(self, condition: str, a: int, b: int, label: str) -> None:
        """To `label` when `a` is eq, ne, lt or ge (unsigned) `b`."""
        raise AssertionError

    def branch_zero(self, d: int, label: str) -> None:
        raise AssertionError

    def branch_negative(self, d: int, label: str) -> None:
        raise AssertionError

    def jump(self, label: str) -> None:
        raise AssertionError

    def stack_to(self, d: int) -> None:
        raise AssertionError

    def stack_from(self, s: int) -> None:
        raise AssertionError

    def system_call(self, name: str, *arguments: int) -> None:
        """With these registers; the result is in r0."""
        raise AssertionError

    def hand_over(self, label: str) -> None:
        """Jump with the registers as the kernel leaves them for a new program."""
        raise AssertionError


class _Amd64(Assembler):
    # rbx rbp r12 r13 r14 r15 r8 r9: none that system calls change (rax, rcx, r11) or take (rdi, rsi, rdx,
    # r10)
    _REG = (3, 5, 12, 13, 14, 15, 8, 9)
    _CALLS = SYSTEM_CALLS["amd64"]

    def _r(self, number: int) -> int:
        assert 0 <= number < REGISTERS
        return self._REG[number]

    def _rex(self, reg: int, rm: int, *, wide: bool = True) -> int:
        return 0x40 | (8 if wide else 0) | (4 if reg > 7 else 0) | (1 if rm > 7 else 0)

    def _rr(self, opcode: bytes, reg: int, rm: int) -> None:
        self.code += bytes([self._rex(reg, rm)]) + opcode + bytes([0xC0 | (reg & 7) << 3 | rm & 7])

    def _mem(self, opcode: bytes, reg: int, base: int, offset: int, *, wide: bool = True) -> None:
        self.code += bytes([self._rex(reg, base, wide=wide)]) + opcode
        self.code.append(0x80 | (reg & 7) << 3 | base & 7)
        if base & 7 == 4:
            self.code.append(0x24)
        self.code += struct.pack("<i", offset)

    def move(self, d: int, s: int) -> None:
        self._rr(b"\x8b", self._r(d), self._r(s))

    def constant(self, d: int, value: int) -> None:
        reg = self._r(d)
        self.code += bytes([self._rex(0, reg), 0xB8 | reg & 7]) + struct.pack("<Q", value % (1 << 64))

    def address(self, d: int, label: str) -> None:
        reg = self._r(d)
        self.code += bytes([self._rex(reg, 0), 0x8D, 0x05 | (reg & 7) << 3])
        self._relative(label)

    def _relative(self, label: str) -> None:
        after = len(self.code) + 4
        self._fix(label, 4, lambda target: struct.pack("<i", target - after))

    def load(self, d: int, base: int, offset: int = 0, *, bits: int = 64) -> None:
        opcode = {64: b"\x8b", 32: b"\x8b", 8: b"\x0f\xb6"}[bits]
        self._mem(opcode, self._r(d), self._r(base), offset, wide=bits == 64)

    def store(self, s: int, base: int, offset: int = 0, *, bits: int = 64) -> None:
        self._mem({64: b"\x89", 8: b"\x88"}[bits], self._r(s), self._r(base), offset, wide=bits == 64)

    def add(self, d: int, s: int) -> None:
        self._rr(b"\x03", self._r(d), self._r(s))

    def add_constant(self, d: int, value: int) -> None:
        reg = self._r(d)
        self.code += bytes([self._rex(0, reg), 0x81, 0xC0 | reg & 7]) + struct.pack("<i", value)

    def xor(self, d: int, s: int) -> None:
        self._rr(b"\x33", self._r(d), self._r(s))

    def multiply(self, d: int, s: int) -> None:
        self._rr(b"\x0f\xaf", self._r(d), self._r(s))

    def mask(self, d: int, s: int) -> None:
        self._rr(b"\x23", self._r(d), self._r(s))

    def branch(self, condition: str, a: int, b: int, label: str) -> None:
        self._rr(b"\x3b", self._r(a), self._r(b))
        self.code += bytes([0x0F, {"eq": 0x84, "ne": 0x85, "lt": 0x82, "ge": 0x83}[condition]])
        self._relative(label)

    def _test(self, d: int, jump: int, label: str) -> None:
        reg = self._r(d)
        self._rr(b"\x85", reg, reg)
        self.code += bytes([0x0F, jump])
        self._relative(label)

    def branch_zero(self, d: int, label: str) -> None:
        self._test(d, 0x84, label)

    def branch_negative(self, d: int, label: str) -> None:
        self._test(d, 0x88, label)

    def jump(self, label: str) -> None:
        self.code.append(0xE9)
        self._relative(label)

    def stack_to(self, d: int) -> None:
        self._rr(b"\x8b", self._r(d), 4)

    def stack_from(self, s: int) -> None:
        self._rr(b"\x8b", 4, self._r(s))

    def system_call(self, name: str, *arguments: int) -> None:
        for place, number in zip((7, 6, 2, 10), arguments, strict=False):  # rdi rsi rdx r10
            self._rr(b"\x8b", place, self._r(number))
        self.code += b"\xb8" + struct.pack("<I", self._CALLS[name]) + b"\x0f\x05"
        self._rr(b"\x8b", self._r(0), 0)  # from rax

    def hand_over(self, label: str) -> None:
        self.code += b"\x31\xd2"  # xor edx, edx: nothing to call at exit
        self.jump(label)


class _Arm64(Assembler):
    # x19 to x26; x9 in between
    _CALLS = SYSTEM_CALLS["arm64"]

    def _r(self, number: int) -> int:
        assert 0 <= number < REGISTERS
        return 19 + number

    def _word(self, value: int) -> None:
        self.code += struct.pack("<I", value)

    def move(self, d: int, s: int) -> None:
        self._word(0xAA0003E0 | self._r(s) << 16 | self._r(d))  # orr d, xzr, s

    def _constant(self, reg: int, value: int) -> None:
        value %= 1 << 64
        self._word(0xD2800000 | (value & 0xFFFF) << 5 | reg)  # movz
        for part in (1, 2, 3):
            piece = value >> 16 * part & 0xFFFF
            if piece:
                self._word(0xF2800000 | part << 21 | piece << 5 | reg)  # movk

    def constant(self, d: int, value: int) -> None:
        self._constant(self._r(d), value)

    def address(self, d: int, label: str) -> None:
        here, reg = len(self.code), self._r(d)

        def encode(target: int) -> bytes:
            distance = target - here
            assert -(1 << 20) <= distance < 1 << 20, "the table is too large for adr"
            return struct.pack("<I", 0x10000000 | (distance & 3) << 29 | (distance >> 2 & 0x7FFFF) << 5 | reg)

        self._fix(label, 4, encode)

    def load(self, d: int, base: int, offset: int = 0, *, bits: int = 64) -> None:
        size, opcode = {64: (8, 0xF9400000), 32: (4, 0xB9400000), 8: (1, 0x39400000)}[bits]
        assert offset % size == 0
        assert 0 <= offset < size << 12
        self._word(opcode | offset // size << 10 | self._r(base) << 5 | self._r(d))

    def store(self, s: int, base: int, offset: int = 0, *, bits: int = 64) -> None:
        size, opcode = {64: (8, 0xF9000000), 8: (1, 0x39000000)}[bits]
        assert offset % size == 0
        assert 0 <= offset < size << 12
        self._word(opcode | offset // size << 10 | self._r(base) << 5 | self._r(s))

    def add(self, d: int, s: int) -> None:
        self._word(0x8B000000 | self._r(s) << 16 | self._r(d) << 5 | self._r(d))

    def add_constant(self, d: int, value: int) -> None:
        self._constant(9, value)
        self._word(0x8B090000 | self._r(d) << 5 | self._r(d))

    def xor(self, d: int, s: int) -> None:
        self._word(0xCA000000 | self._r(s) << 16 | self._r(d) << 5 | self._r(d))

    def multiply(self, d: int, s: int) -> None:
        self._word(0x9B007C00 | self._r(s) << 16 | self._r(d) << 5 | self._r(d))

    def mask(self, d: int, s: int) -> None:
        self._word(0x8A000000 | self._r(s) << 16 | self._r(d) << 5 | self._r(d))

    def _condition(self, condition: int, label: str) -> None:
        here = len(self.code)
        self._fix(
            label,
            4,
            lambda target: struct.pack("<I", 0x54000000 | (target - here >> 2 & 0x7FFFF) << 5 | condition),
        )

    def branch(self, condition: str, a: int, b: int, label: str) -> None:
        self._word(0xEB00001F | self._r(b) << 16 | self._r(a) << 5)  # cmp a, b
        self._condition({"eq": 0, "ne": 1, "ge": 2, "lt": 3}[condition], label)

    def branch_zero(self, d: int, label: str) -> None:
        self._word(0xF100001F | self._r(d) << 5)  # cmp d, 0
        self._condition(0, label)

    def branch_negative(self, d: int, label: str) -> None:
        self._word(0xF100001F | self._r(d) << 5)
        self._condition(4, label)

    def jump(self, label: str) -> None:
        here = len(self.code)
        self._fix(label, 4, lambda target: struct.pack("<I", 0x14000000 | target - here >> 2 & 0x3FFFFFF))

    def stack_to(self, d: int) -> None:
        self._word(0x910003E0 | self._r(d))  # add d, sp, 0

    def stack_from(self, s: int) -> None:
        self._word(0x9100001F | self._r(s) << 5)

    def system_call(self, name: str, *arguments: int) -> None:
        for place, number in enumerate(arguments):
            self._word(0xAA0003E0 | self._r(number) << 16 | place)
        self._constant(8, self._CALLS[name])
        self._word(0xD4000001)
        self._word(0xAA0003E0 | 0 << 16 | self._r(0))  # orr r0, xzr, x0

    def hand_over(self, label: str) -> None:
        self._word(0xD2800000)  # x0 = 0: nothing to call at exit
        self.jump(label)


HOSTS = {"amd64": _Amd64, "arm64": _Arm64}


def assembler_for(architecture: str) -> Assembler:
    """For a platform's architecture. Raises `NotSupported` for one that it does not know."""
    if architecture not in HOSTS:
        raise NotSupported(f"no code is made for {architecture}: known are {', '.join(HOSTS)}")
    return HOSTS[architecture]()
