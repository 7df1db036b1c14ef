"""The system call filter, run by a small interpreter of classic BPF."""

from __future__ import annotations

import struct

import pytest

from anyarch.sandbox.seccomp import SECCOMP_NR, filter_for

ALLOW, EPERM, ENOSYS = "allow", "EPERM", "ENOSYS"
X86_64, I386, AARCH64, ARM, S390X = 0xC000003E, 0x40000003, 0xC00000B7, 0x40000028, 0x80000016


def verdict(machine: str, arch: int, nr: int, *args: int) -> str:
    """What the kernel would do with a call."""
    order = ">" if machine == "s390x" else "<"
    data = struct.pack(order + "IIQ6Q", nr & 0xFFFFFFFF, arch, 0, *args, *[0] * (6 - len(args)))
    program = filter_for(machine)
    position = accumulator = 0
    while True:
        code, jump_true, jump_false, value = struct.unpack_from(order + "HBBI", program, position * 8)
        position += 1
        match code:
            case 0x20:
                (accumulator,) = struct.unpack_from(order + "I", data, value)
            case 0x05:
                position += value
            case 0x15:
                position += jump_true if accumulator == value else jump_false
            case 0x35:
                position += jump_true if accumulator >= value else jump_false
            case 0x45:
                position += jump_true if accumulator & value else jump_false
            case 0x06:
                return {0x7FFF0000: ALLOW, 0x50001: EPERM, 0x50026: ENOSYS}[value]
            case _:
                pytest.fail(f"unknown instruction {code:#x}")


@pytest.mark.parametrize(
    ("machine", "arch", "calls"),
    [
        ("x86_64", X86_64, (0, 1, 59, 61, 101, 161, 310, 334, 424, 434, 436, 437, 439, 441, 449, 466)),
        ("x86_64", I386, (1, 4, 11, 61, 102, 117, 340, 383, 403, 436)),
        ("aarch64", AARCH64, (51, 56, 63, 93, 117, 221, 260, 291, 424, 439)),
        ("aarch64", ARM, (1, 11, 61, 248, 0xF0002, 0xF0005)),
        ("s390x", S390X, (1, 4, 11, 26, 61)),
    ],
)
def test_ordinary_calls_pass(machine: str, arch: int, calls: tuple[int, ...]) -> None:
    assert {nr: verdict(machine, arch, nr) for nr in calls} == dict.fromkeys(calls, ALLOW)


@pytest.mark.parametrize(
    ("machine", "arch", "calls"),
    [
        # mount umount2 pivot_root setns unshare bpf keyctl init_module reboot iopl userfaultfd io_uring_setup
        # open_tree
        ("x86_64", X86_64, (165, 166, 155, 308, 272, 321, 250, 175, 169, 172, 323, 425, 428, 429, 442, 461)),
        ("x86_64", I386, (21, 22, 52, 217, 346, 310, 357, 288, 128, 88, 110, 374, 425, 428)),
        ("aarch64", AARCH64, (40, 39, 41, 268, 97, 280, 219, 105, 142, 282, 425, 428)),
        ("aarch64", ARM, (21, 52, 218, 375, 337, 386, 311, 128, 88, 388)),
        ("s390x", S390X, (21, 22, 52, 217, 339, 303, 351, 280, 128, 88, 355)),
    ],
)
def test_calls_that_change_the_machine_are_forbidden(machine: str, arch: int, calls: tuple[int, ...]) -> None:
    assert {nr: verdict(machine, arch, nr) for nr in calls} == dict.fromkeys(calls, EPERM)


@pytest.mark.parametrize(
    "flag", [0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000]
)
def test_clone_makes_no_namespaces(flag: int) -> None:
    sigchld = 17
    assert verdict("x86_64", X86_64, 56, flag | sigchld) == EPERM
    assert verdict("x86_64", X86_64, 56, sigchld | 0x3D0F00) == ALLOW  # as threads are made
    assert verdict("s390x", S390X, 120, 0, flag) == EPERM  # its flags come second
    assert verdict("s390x", S390X, 120, flag, sigchld) == ALLOW


@pytest.mark.parametrize(("machine", "arch"), [("x86_64", X86_64), ("x86_64", I386), ("aarch64", ARM)])
def test_calls_that_cannot_be_judged_do_not_exist(machine: str, arch: int) -> None:
    assert verdict(machine, arch, 435) == ENOSYS  # clone3: its flags lie in memory
    assert verdict(machine, arch, 467) == ENOSYS  # newer than the table
    assert verdict(machine, arch, 0x3FFFFFFF) == ENOSYS


def test_x32_calls_do_not_exist() -> None:
    assert verdict("x86_64", X86_64, 0x40000000) == ENOSYS
    assert verdict("x86_64", X86_64, 0x40000000 + 165) == ENOSYS


def test_calls_of_an_unexpected_table_are_forbidden() -> None:
    assert verdict("x86_64", AARCH64, 63) == EPERM


def test_kernel_crypto_and_vm_sockets_are_forbidden() -> None:
    families = {1: ALLOW, 2: ALLOW, 10: ALLOW, 16: ALLOW, 38: EPERM, 39: ALLOW, 40: EPERM, 44: ALLOW}
    assert {family: verdict("x86_64", X86_64, 41, family) for family in families} == families


def test_personality_allows_32_bit_but_not_fixed_addresses() -> None:
    values = {0: ALLOW, 8: ALLOW, 0x20000: ALLOW, 0x20008: ALLOW, 0xFFFFFFFF: ALLOW, 0x40000: EPERM}
    assert {value: verdict("x86_64", X86_64, 135, value) for value in values} == values


@pytest.mark.parametrize("machine", sorted(SECCOMP_NR))
def test_search_is_short_for_every_call(machine: str) -> None:
    program = filter_for(machine)
    assert 0 < len(program) // 8 < 4096  # what the kernel accepts
    assert len(program) % 8 == 0


def test_unknown_machine_has_no_filter() -> None:
    assert filter_for("sparc64") == b""
