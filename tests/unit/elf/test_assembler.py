"""The assembler against programs that really run: natively, and arm64 under QEMU."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from anyarch.elf.assembler import assembler_for
from anyarch.elf.tiny import executable
from anyarch.errors import NotSupported
from anyarch.spec.platform import host_platform

if TYPE_CHECKING:
    from pathlib import Path

    from anyarch.elf.assembler import Assembler


def status(tmp_path: Path, architecture: str, asm: Assembler) -> int:
    """Exit status of a program that is this code."""
    path = tmp_path / "program"
    path.write_bytes(executable(architecture, asm.finish()))
    path.chmod(0o755)
    runner = [] if architecture == host_platform().architecture else ["qemu-aarch64-static"]
    return subprocess.run([*runner, str(path), "argument"], check=False).returncode


def leave(asm: Assembler) -> None:
    asm.system_call("exit", 0)


MACHINES = [
    pytest.param("amd64", marks=pytest.mark.skipif(os.uname().machine != "x86_64", reason="another machine")),
    pytest.param("arm64", marks=pytest.mark.emulation),
]


@pytest.mark.parametrize("machine", MACHINES)
def test_arithmetic_and_memory(tmp_path: Path, machine: str) -> None:
    asm = assembler_for(machine)
    asm.stack_to(7)
    asm.move(6, 7)
    asm.add_constant(6, -64)
    asm.stack_from(6)
    asm.constant(1, 0x123456789ABCDEF0)
    asm.constant(2, 3)
    asm.multiply(1, 2)
    asm.store(1, 6, 16)
    asm.load(3, 6, 16)
    asm.xor(1, 3)  # 0
    asm.branch_zero(1, "zero")
    asm.constant(0, 1)
    leave(asm)
    asm.label("zero")
    asm.load(4, 6, 16, bits=8)  # 0xd0
    asm.constant(5, 0x0F0)
    asm.mask(4, 5)
    asm.add(1, 4)
    asm.add_constant(1, -0xD0 + 42)
    asm.move(0, 1)
    leave(asm)

    assert status(tmp_path, machine, asm) == 42


@pytest.mark.parametrize("machine", MACHINES)
def test_a_byte_is_stored_alone(tmp_path: Path, machine: str) -> None:
    asm = assembler_for(machine)
    asm.stack_to(6)
    asm.add_constant(6, -64)
    asm.constant(1, 0x1111111111111111)
    asm.store(1, 6)
    for place in range(1, 8):  # with and without a prefix, on amd64
        asm.constant(place % 6, 0xFF05)
        asm.store(place % 6, 6, place, bits=8)
    asm.load(2, 6)
    asm.constant(3, 0x0505050505050511)
    asm.xor(2, 3)
    asm.move(0, 2)
    asm.branch_zero(2, "end")
    asm.constant(0, 1)
    asm.label("end")
    leave(asm)

    assert status(tmp_path, machine, asm) == 0


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize(
    ("condition", "first", "second", "taken"),
    [
        *[("eq", 5, 5, True), ("eq", 5, 6, False), ("ne", 5, 6, True), ("ne", 5, 5, False)],
        *[("lt", 5, 6, True), ("lt", 6, 6, False), ("lt", -1, 5, False), ("lt", 5, -1, True)],
        *[("ge", 6, 6, True), ("ge", 5, 6, False), ("ge", -1, 5, True)],
    ],
)
def test_branches_compare_without_sign(
    tmp_path: Path, machine: str, condition: str, first: int, second: int, taken: bool
) -> None:
    asm = assembler_for(machine)
    asm.constant(1, first)
    asm.constant(2, second)
    asm.branch(condition, 1, 2, "taken")
    asm.constant(0, 0)
    asm.branch_negative(1, "end")
    asm.jump("end")
    asm.label("taken")
    asm.constant(0, 1)
    asm.label("end")
    leave(asm)

    assert status(tmp_path, machine, asm) == taken


@pytest.mark.parametrize("machine", MACHINES)
def test_data_is_found_by_its_label(tmp_path: Path, machine: str) -> None:
    asm = assembler_for(machine)
    asm.address(3, "data")
    asm.load(0, 3, 8, bits=32)
    leave(asm)
    asm.align(8)
    asm.label("data")
    asm.data(bytes(8) + b"\x2a\0\0\0")

    assert status(tmp_path, machine, asm) == 42


@pytest.mark.parametrize("machine", MACHINES)
def test_the_stack_holds_the_arguments(tmp_path: Path, machine: str) -> None:
    asm = assembler_for(machine)
    asm.stack_to(3)
    asm.load(4, 3, 16)
    asm.load(0, 4, 2, bits=8)
    leave(asm)

    assert status(tmp_path, machine, asm) == ord("g")


def test_other_machines_are_refused() -> None:
    with pytest.raises(NotSupported, match="no code is made for riscv64: known are amd64, arm64"):
        assembler_for("riscv64")
