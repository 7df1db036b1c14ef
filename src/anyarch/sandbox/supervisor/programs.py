"""Two programs of a few instructions that stand between us and the programs of a step.

`init` is pid 1 of a step: it reaps whatever ends and ends as its first child does, so no zombies gather and
the step's own program gets the signals of an ordinary process.

`launch` executes the step's program in our stead. While a process executes another, `/proc/self/exe` still
is what it was; if that were the machine's Python interpreter, a step could name it, or have it named by `#!`,
and get hold of a file of the machine (CVE-2019-5736 of runc). So it is this program, of which there is
nothing but a sealed file in memory.

Both are for one machine each; where there is none the step's program is pid 1 and executed directly.
"""

from __future__ import annotations

import os
import struct

from . import syscalls as kernel

CONTROL_FD = 3
"""Where `launch` reports: an errno as a frame of `.report`."""

# launch: fcntl(3, F_SETFD, FD_CLOEXEC); execve(argv[0], argv + 1, envp);
#         write(3, {5, 'i', errno}, 9); exit_group(127)
# init: do pid = wait4(-1, &status, 0, 0) while (pid != 2);      exit_group(127) where that is ECHILD
#       exit_group(status & 0x7f ? 128 + (status & 0x7f) : status >> 8)
_X86_64 = (
    bytes.fromhex(
        "b848000000 bf03000000 be02000000 ba01000000 0f05"  # mov eax, 72; edi, 3; esi, 2; edx, 1; syscall
        "488b7c2408 488d742410 488b0424 488d54c410"  # mov rdi, [rsp+8]; lea rsi, rdx by argc
        "b83b000000 0f05 f7d8"  # mov eax, 59; syscall; neg eax
        "4883ec10 c7042405000000 c644240469 89442405"  # the frame, on the stack
        "b801000000 bf03000000 4889e6 ba09000000 0f05"  # mov eax, 1; edi, 3; rsi, rsp; edx, 9; syscall
        "bf7f000000 b8e7000000 0f05"  # mov edi, 127; eax, 231; syscall
    ),
    bytes.fromhex(
        "4883ec10"  # sub rsp, 16
        "b83d000000 48c7c7ffffffff 4889e6 31d2 4d31d2 0f05"  # wait4
        "83f8f6 7421 83f802 75e0"  # cmp eax, -10; je fail; cmp eax, 2; jne wait4
        "8b0424 89c1 83e17f 7505"  # mov eax, [rsp]; ecx = eax & 0x7f; jne signal
        "0fb6fc eb06"  # movzx edi, ah; jmp end
        "8db980000000"  # signal: lea edi, [rcx+128]
        "b8e7000000 0f05"  # end: mov eax, 231; syscall
        "bf7f000000 ebf2"  # fail: mov edi, 127; jmp end
    ),
)
_SVC = 0xD4000001
_AARCH64 = (
    struct.pack(
        "<26I",
        *(0xD2800060, 0xD2800041, 0xD2800022, 0xD2800328, _SVC),  # x0 = 3; x1 = 2; x2 = 1; x8 = 25
        *(0xF94007E0, 0x910043E1, 0xF94003E3, 0x8B030C22),  # ldr x0, [sp, 8]; x1 = sp + 16; x2 by argc
        *(0xD2801BA8, _SVC, 0x4B0003E0),  # x8 = 221; neg w0, w0
        *(0xD10043FF, 0x528000A1, 0xB90003E1, 0x52800D21, 0x390013E1, 0xB80053E0),  # the frame
        *(0xD2800060, 0x910003E1, 0xD2800122, 0xD2800808, _SVC),  # x0 = 3; x1 = sp; x2 = 9; x8 = 64
        *(0xD2800FE0, 0xD2800BC8, _SVC),  # x0 = 127; x8 = 94
    ),
    struct.pack(
        "<21I",
        0xD10043FF,  # sub sp, sp, 16
        *(0x92800000, 0x910003E1, 0xD2800002, 0xD2800003, 0xD2802088, _SVC),  # wait4
        *(0x3100281F, 0x54000160),  # cmn w0, 10; b.eq fail
        *(0x7100081F, 0x54FFFEE1),  # cmp w0, 2; b.ne wait4
        *(0xB94003E4, 0x72001885, 0x54000061),  # ldr w4, [sp]; ands w5, w4, 0x7f; b.ne signal
        *(0x53083C80, 0x14000002),  # ubfx w0, w4, 8, 8; b end
        0x110200A0,  # signal: add w0, w5, 128
        *(0xD2800BC8, _SVC),  # end: x8 = 94
        *(0x52800FE0, 0x17FFFFFD),  # fail: mov w0, 127; b end
    ),
)
# machine → e_machine, launch, init
PROGRAMS = {"x86_64": (62, *_X86_64), "aarch64": (183, *_AARCH64)}

_BASE = 0x400000


def elf_file(e_machine: int, code: bytes) -> bytes:
    """A static little-endian 64 bit program that is just this code."""
    start = 64 + 56
    size = start + len(code)
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    header = struct.pack("<HHIQQQI6H", 2, e_machine, 1, _BASE + start, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, _BASE, _BASE, size, size, 0x10000)
    return ident + header + segment + code


class Programs:
    """The two as sealed files in memory; -1 where there are none."""

    def __init__(self) -> None:
        self.launch = self.init = -1
        machine = PROGRAMS.get(os.uname().machine)
        if machine is None:
            return
        e_machine, launch, init = machine
        try:
            self.launch = kernel.sealed_file(b"anyarch-launch", elf_file(e_machine, launch))
            self.init = kernel.sealed_file(b"anyarch-init", elf_file(e_machine, init))
        except OSError:
            self.launch = self.init = -1  # vm.memfd_noexec forbids it
