"""The system call filter of a step, as a classic BPF program for the kernel.

It forbids what Docker's default profile forbids to a container without extra capabilities (mounts, new
namespaces, keys, kernel modules, the clock, io_uring, …) with EPERM. `clone3`, whose flags a filter cannot
see, and calls newer than this table answer ENOSYS, so that programs fall back to what they knew before. All
other calls pass.

The kernel runs the program on every call, and once for each call number when it is installed: it is a binary
search over ranges of numbers, not a list of comparisons. It is emitted here, in the parent, and only
installed by the child.
"""

from __future__ import annotations

import struct
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["SECCOMP_NR", "filter_for"]

# seccomp(2) by machine
SECCOMP_NR = {
    "x86_64": 317,
    "aarch64": 277,
    "riscv64": 277,
    "loongarch64": 277,
    "s390x": 348,
    "ppc64le": 358,
}

# AUDIT_ARCH_* of linux/audit.h: e_machine | 64 bit 0x80000000 | little endian 0x40000000
_AUDIT = {
    "x86_64": 0xC000003E,
    "i386": 0x40000003,
    "aarch64": 0xC00000B7,
    "arm": 0x40000028,
    "riscv64": 0xC00000F3,
    "loongarch64": 0xC0000102,
    "s390x": 0x80000016,
    "ppc64le": 0xC0000015,
}

# the call tables a kernel of that machine offers to its processes
_ABIS = {
    "x86_64": ("x86_64", "i386"),
    "aarch64": ("aarch64", "arm"),
    "riscv64": ("riscv64",),
    "loongarch64": ("loongarch64",),
    "s390x": ("s390x",),
    "ppc64le": ("ppc64le",),
}

_COLUMNS = ("x86_64", "i386", "generic", "arm", "s390x", "ppc64le")
_COLUMN_OF = {"aarch64": "generic", "riscv64": "generic", "loongarch64": "generic"}

# Forbidden calls: numbers in the order of _COLUMNS, from the kernel's asm/unistd.h; `-` where there is none.
_FORBIDDEN = """
_sysctl            156 149   - 149 149 149
acct               163  51  89  51  51  51
add_key            248 286 217 309 278 269
bdflush              - 134   - 134 134 134
bpf                321 357 280 386 351 361
clock_settime      227 264 112 262 259 245
clock_settime64      - 404   - 404   -   -
create_module      174 127   -   - 127 127
delete_module      176 129 106 129 129 129
fanotify_init      300 338 262 367 332 323
finit_module       313 350 273 379 344 353
get_kernel_syms    177 130   -   - 130 130
get_mempolicy      239 275 236 320 269 260
init_module        175 128 105 128 128 128
ioperm             173 101   -   -   - 101
iopl               172 110   -   -   - 110
kcmp               312 349 272 378 343 354
kexec_file_load    320   - 294 401 381 382
kexec_load         246 283 104 347 277 268
keyctl             250 288 219 311 280 271
lookup_dcookie     212 253  18 249 110 235
mbind              237 274 235 319 268 259
migrate_pages      256 294 238 400 287 258
mount              165  21  40  21  21  21
move_pages         279 317 239 344 310 301
nfsservctl         180 169  42 169 169 168
open_by_handle_at  304 342 265 371 336 346
pciconfig_iobase     -   -   - 271   - 200
pciconfig_read       -   -   - 272   - 198
pciconfig_write      -   -   - 273   - 199
perf_event_open    298 336 241 364 331 319
pivot_root         155 217  41 218 217 203
query_module       178 167   -   - 167 166
quotactl           179 131  60 131 131 131
reboot             169  88 142  88  88  88
request_key        249 287 218 310 279 270
rtas                 -   -   -   -   - 255
s390_guarded_storage -   -   -   - 378   -
s390_sthyi           -   -   -   - 380   -
set_mempolicy      238 276 237 321 270 261
setdomainname      171 121 162 121 121 121
sethostname        170  74 161  74  74  74
setns              308 346 268 375 339 350
settimeofday       164  79 170  79  79  79
spu_create           -   -   -   -   - 279
spu_run              -   -   -   -   - 278
stime                -  25   -   -   -  25
subpage_prot         -   -   -   -   - 310
swapoff            168 115 225 115 115 115
swapon             167  87 224  87  87  87
switch_endian        -   -   -   -   - 363
sys_debug_setcontext -   -   -   -   - 256
sysfs              139 135   - 135 135 135
syslog             103 103 116 103 103 103
umount               -  22   -   -  22  22
umount2            166  52  39  52  52  52
unshare            272 310  97 337 303 282
uselib             134  86   -  86  86  86
userfaultfd        323 374 282 388 355 364
ustat              136  62   -  62  62  62
vhangup            153 111  58 111 111 111
vm86                 - 166   -   -   - 113
vm86old              - 113   -   -   -   -
vserver            236 273   - 313   -   -
"""
# From 424 on all tables have the same numbers: io_uring_*, open_tree, move_mount, fs*, pidfd_getfd,
# process_madvise, mount_setattr, quotactl_fd, set_mempolicy_home_node, lsm_*.
_FORBIDDEN_EVERYWHERE = (425, 426, 427, 428, 429, 430, 431, 432, 433, 438, 440, 442, 443, 450, 459, 460, 461)
_CLONE3 = 435
_FIRST_UNKNOWN = 467  # after removexattrat

_CLONE = dict(zip(_COLUMNS, (56, 120, 220, 120, 120, 120), strict=True))
_SOCKET = dict(zip(_COLUMNS, (41, 359, 198, 281, 359, 326), strict=True))
_PERSONALITY = dict(zip(_COLUMNS, (135, 136, 92, 136, 136, 136), strict=True))

_CLONE_NEW = 0x7E020000  # all CLONE_NEW* flags that clone takes
_AF_ALG, _AF_VSOCK = 38, 40
# PER_LINUX, PER_LINUX32, UNAME26 with either, and the query
_PERSONALITIES = (0x0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)
_X32_BIT = 0x40000000

# struct sock_filter and the few operations that are needed (linux/bpf_common.h)
_LD, _JA, _JEQ, _JGE, _JSET, _RET = 0x20, 0x05, 0x15, 0x35, 0x45, 0x06
_NR_OFFSET, _ARCH_OFFSET, _ARGS_OFFSET = 0, 4, 16
_ALLOW = 0x7FFF0000
_EPERM = 0x00050000 | 1
_ENOSYS = 0x00050000 | 38

_Instruction = tuple[int, int, int, int]  # code, jump if true, jump if false, value


@cache
def filter_for(machine: str) -> bytes:
    """The program for a kernel whose `uname -m` is `machine`; empty when there is no table for it."""
    abis = _ABIS.get(machine, ())
    if not abis:
        return b""
    low_word = 4 if machine == "s390x" else 0  # where the low half of a 64 bit argument lies
    program: list[_Instruction] = [(_LD, 0, 0, _ARCH_OFFSET)]
    for abi in abis:
        body = _abi_program(abi, low_word)
        program += [(_JEQ, 1, 0, _AUDIT[abi]), (_JA, 0, 0, len(body)), *body]
    program.append((_RET, 0, 0, _EPERM))
    order = ">" if machine == "s390x" else "<"
    return b"".join(struct.pack(order + "HBBI", *instruction) for instruction in program)


def _abi_program(abi: str, low_word: int) -> list[_Instruction]:
    column = _COLUMN_OF.get(abi, abi)
    verdicts: dict[int, list[_Instruction]] = {}
    for nr in _forbidden_numbers(column):
        verdicts[nr] = [(_RET, 0, 0, _EPERM)]
    verdicts[_CLONE3] = [(_RET, 0, 0, _ENOSYS)]
    verdicts[_CLONE[column]] = _check_clone(_ARGS_OFFSET + low_word + (8 if column == "s390x" else 0))
    verdicts[_SOCKET[column]] = _check_not(_ARGS_OFFSET + low_word, (_AF_ALG, _AF_VSOCK))
    verdicts[_PERSONALITY[column]] = _check_is(_ARGS_OFFSET + low_word, _PERSONALITIES)
    # ranges: from a number up to the next one the verdict is the same
    allow: list[_Instruction] = [(_RET, 0, 0, _ALLOW)]
    ranges: list[tuple[int, list[_Instruction]]] = [(0, allow)]
    for nr in sorted(verdicts):
        for start, verdict in ((nr, verdicts[nr]), (nr + 1, verdicts.get(nr + 1, allow))):
            if start == ranges[-1][0]:
                ranges[-1] = (start, verdict)
            elif verdict != ranges[-1][1]:
                ranges.append((start, verdict))
    ranges.append((_FIRST_UNKNOWN, [(_RET, 0, 0, _ENOSYS)]))
    if abi == "arm":  # the calls of its own: breakpoint, cacheflush, set_tls, …
        ranges += [(0xF0000, allow), (0xF0010, [(_RET, 0, 0, _ENOSYS)])]
    return [(_LD, 0, 0, _NR_OFFSET), *_search(ranges)]


def _forbidden_numbers(column: str) -> Iterator[int]:
    position = _COLUMNS.index(column) + 1
    for line in _FORBIDDEN.strip().splitlines():
        number = line.split()[position]
        if number != "-":
            yield int(number)
    yield from _FORBIDDEN_EVERYWHERE


def _search(ranges: list[tuple[int, list[_Instruction]]]) -> list[_Instruction]:
    """Instructions that find the range of the loaded number and end with its verdict."""
    if len(ranges) == 1:
        return ranges[0][1]
    middle = len(ranges) // 2
    below, above = _search(ranges[:middle]), _search(ranges[middle:])
    if len(below) <= 255:
        return [(_JGE, len(below), 0, ranges[middle][0]), *below, *above]
    return [(_JGE, 0, 1, ranges[middle][0]), (_JA, 0, 0, len(below)), *below, *above]


def _check_clone(offset: int) -> list[_Instruction]:
    return [(_LD, 0, 0, offset), (_JSET, 0, 1, _CLONE_NEW), (_RET, 0, 0, _EPERM), (_RET, 0, 0, _ALLOW)]


def _check_not(offset: int, values: tuple[int, ...]) -> list[_Instruction]:
    tests = [(_JEQ, len(values) - position, 0, value) for position, value in enumerate(values)]
    return [(_LD, 0, 0, offset), *tests, (_RET, 0, 0, _ALLOW), (_RET, 0, 0, _EPERM)]


def _check_is(offset: int, values: tuple[int, ...]) -> list[_Instruction]:
    tests = [(_JEQ, len(values) - position, 0, value) for position, value in enumerate(values)]
    return [(_LD, 0, 0, offset), *tests, (_RET, 0, 0, _EPERM), (_RET, 0, 0, _ALLOW)]
