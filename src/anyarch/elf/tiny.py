"""The smallest static programs of each architecture: they only end with a given code. For trying what runs
here.
"""

from __future__ import annotations

import struct

from anyarch.errors import NotSupported

__all__ = ["ARCHITECTURES", "executable", "tiny_executable"]

_BASE = 0x400000
_PAGE = 0x10000  # the largest page size in use

# architecture → (bits, byte order of struct, e_machine, e_flags)
_FIELDS = {
    "386": (32, "<", 3, 0),
    "amd64": (64, "<", 62, 0),
    "arm": (32, "<", 40, 0x05000000),  # EABI 5
    "arm64": (64, "<", 183, 0),
    "loong64": (64, "<", 258, 0x43),  # double float, object ABI 1
    "mips": (32, ">", 8, 0x50001000),  # mips32, o32
    "mipsle": (32, "<", 8, 0x50001000),
    "mips64": (64, ">", 8, 0x80000000),  # mips64r2, n64
    "mips64le": (64, "<", 8, 0x80000000),
    "ppc64": (64, ">", 21, 2),  # ELFv2: the entry is an address, not a descriptor
    "ppc64le": (64, "<", 21, 2),
    "riscv64": (64, "<", 243, 0),
    "s390x": (64, ">", 22, 0),
}
ARCHITECTURES = tuple(sorted(_FIELDS))


def tiny_executable(architecture: str, exit_code: int = 0) -> bytes:
    """A static ELF program for Linux that calls exit_group(exit_code), 0 to 255. Raises `NotSupported`."""
    if architecture not in _FIELDS:
        raise NotSupported(f"no program can be made for the architecture {architecture!r}")
    return executable(architecture, _exit_code(architecture, _FIELDS[architecture][1], exit_code & 0xFF))


def executable(architecture: str, code: bytes) -> bytes:
    """A static program of `architecture` (one of `ARCHITECTURES`) that is just this machine code."""
    bits, order, machine, flags = _FIELDS[architecture]
    header_size, segment_size = (64, 56) if bits == 64 else (52, 32)
    start = header_size + segment_size
    size = start + len(code)
    ident = b"\x7fELF" + bytes([2 if bits == 64 else 1, 1 if order == "<" else 2, 1]) + bytes(9)
    word = "Q" if bits == 64 else "I"
    header = ident + struct.pack(
        order + "HHI" + 3 * word + "I6H",
        *(2, machine, 1),  # ET_EXEC, the machine, EV_CURRENT
        *(_BASE + start, header_size, 0),  # entry, program headers, no sections
        *(flags, header_size, segment_size, 1, 0, 0, 0),
    )
    # one PT_LOAD that maps the whole file, readable and executable
    if bits == 64:
        segment = struct.pack(order + "IIQQQQQQ", 1, 5, 0, _BASE, _BASE, size, size, _PAGE)
    else:
        segment = struct.pack(order + "8I", 1, 0, _BASE, _BASE, size, size, 5, _PAGE)
    return header + segment + code


def _exit_code(architecture: str, order: str, code: int) -> bytes:
    """Machine code: the call number of exit_group and `code` into their registers, then the system call."""
    words: tuple[int, ...]
    match architecture:
        case "amd64":
            return struct.pack("<BIBI", 0xB8, 231, 0xBF, code) + b"\x0f\x05"  # mov eax; mov edi; syscall
        case "386":
            return struct.pack("<BIBI", 0xB8, 252, 0xBB, code) + b"\xcd\x80"  # mov eax; mov ebx; int 0x80
        case "s390x":
            return struct.pack(">HhBB", 0xA729, code, 0x0A, 248)  # lghi r2; svc 248
        case "arm":
            words = (0xE3A070F8, 0xE3A00000 | code, 0xEF000000)  # mov r7, 248; mov r0; svc 0
        case "arm64":
            words = (0xD2800BC8, 0x52800000 | code << 5, 0xD4000001)  # mov x8, 94; mov w0; svc 0
        case "riscv64":
            words = (94 << 20 | 17 << 7 | 0x13, code << 20 | 10 << 7 | 0x13, 0x73)  # li a7; li a0; ecall
        case "loong64":
            words = (
                0x02800000 | 94 << 10 | 11,
                0x02800000 | code << 10 | 4,
                0x002B0000,
            )  # addi.w a7; a0; syscall
        case "ppc64" | "ppc64le":
            words = (0x38000000 | 234, 0x38600000 | code, 0x44000002)  # li r0; li r3; sc
        case "mips" | "mipsle":
            words = (0x24020000 | 4246, 0x24040000 | code, 0x0000000C)  # li v0; li a0; syscall
        case _:
            words = (0x24020000 | 5205, 0x24040000 | code, 0x0000000C)  # the same of n64
    return struct.pack(f"{order}{len(words)}I", *words)
