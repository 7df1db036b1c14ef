"""Foreign programs really executed, by the route that is chosen."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from anyarch.elf.tiny import executable, tiny_executable
from anyarch.emulation import Host, find_emulators, plan, probe
from anyarch.emulation.emulator import QEMU_ARCHITECTURES
from anyarch.errors import SandboxError
from anyarch.sandbox.executor import Executor
from anyarch.sandbox.plan import ExecRequest, Registration, RootFS
from anyarch.spec.platform import Platform, host_platform

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.root, pytest.mark.emulation]


@pytest.fixture(params=[True, False], ids=["root", "user"])
def executor(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Executor]:
    with Executor(tmp_path / "state", privileged=request.param) as executor:
        yield executor


def run(executor: Executor, directory: Path, program: bytes, *, mode: int = 0o755, **fields: object) -> int:
    layer = directory / f"layer-{len(os.listdir(directory))}"
    layer.mkdir()
    (layer / "p").write_bytes(program)
    (layer / "p").chmod(mode)
    request = ExecRequest(("/p",), RootFS((str(layer),)), **fields)  # type: ignore[arg-type]
    return executor.run(request, on_output=lambda _stream, _data: None)


@pytest.mark.parametrize(
    "architecture", [name for name in QEMU_ARCHITECTURES if name not in ("386", "amd64", "arm64")]
)
def test_each_emulator_runs_a_program(architecture: str, executor: Executor) -> None:
    platform = Platform.make("linux", architecture)

    route = probe(platform, Host(executor=executor), executor, is_root=executor.overlay == "trusted")

    assert route.kind in ("private", "host")
    assert route.cache_identity.startswith(f"qemu-{QEMU_ARCHITECTURES[architecture]} ")


def test_native_and_386_programs_run_without(executor: Executor) -> None:
    host = Host(executor=executor)

    assert probe(host_platform(), host, executor, is_root=True).kind == "native"
    assert probe(Platform("linux", "386"), host, executor, is_root=True).kind == "native"


def test_private_handlers_are_seen_by_their_steps_only(executor: Executor, tmp_path: Path) -> None:
    host = Host(executor=executor, binfmt_misc="/nowhere")
    arm, riscv = (
        plan(Platform.make("linux", name), host, is_root=True).emulators for name in ("arm", "riscv64")
    )

    assert run(executor, tmp_path, tiny_executable("arm", 3), emulators=arm) == 3
    assert run(executor, tmp_path, tiny_executable("arm", 3), emulators=riscv + arm) == 3
    assert run(executor, tmp_path, tiny_executable("amd64", 4), emulators=riscv) == 4
    with pytest.raises(SandboxError, match="exec format error"):
        run(executor, tmp_path, tiny_executable("arm", 3), emulators=riscv)
    with pytest.raises(SandboxError, match="exec format error"):
        run(executor, tmp_path, tiny_executable("arm", 3))


def test_emulated_setuid_program_gets_its_owners_id(tmp_path: Path) -> None:
    # geteuid; exit_group(what it returned)
    words = (0xD28015E8, 0xD4000001, 0xD2800BC8, 0xD4000001)
    geteuid = executable("arm64", b"".join(word.to_bytes(4, "little") for word in words))
    with Executor(tmp_path / "state", privileged=True) as executor:
        route = plan(Platform("linux", "arm64"), Host(binfmt_misc="/nowhere"), is_root=True)

        assert run(executor, tmp_path, geteuid, uid=33, emulators=route.emulators) == 33
        assert run(executor, tmp_path, geteuid, mode=0o4755, uid=33, emulators=route.emulators) == 0


def test_emulated_program_sees_its_own_arguments(executor: Executor, tmp_path: Path) -> None:
    """Flag P: argc is what was asked for, not one more."""
    words = (0xF94003E0, 0xD2800BC8, 0xD4000001)  # ldr x0, [sp]; exit_group
    argc = executable("arm64", b"".join(word.to_bytes(4, "little") for word in words))
    route = plan(Platform("linux", "arm64"), Host(binfmt_misc="/nowhere"), is_root=True)

    assert run(executor, tmp_path, argc, emulators=route.emulators) == 1


def test_emulator_that_cannot_be_registered_is_named(executor: Executor) -> None:
    entry = Registration("qemu-none", b"\x7fELF", b"\xff\xff\xff\xff", "/nowhere/qemu", "F")

    with pytest.raises(SandboxError, match="/nowhere/qemu"):
        executor.check_emulators((entry,))


def test_odd_path_of_an_emulator_can_be_registered(executor: Executor, tmp_path: Path) -> None:
    """The fields of a registration are separated by a character that must be in none of them."""
    odd = tmp_path / "a:b;c,d"
    odd.mkdir()
    (odd / "qemu").symlink_to(find_emulators()["riscv64"].path)
    route = plan(Platform.make("linux", "riscv64"), Host(binfmt_misc="/nowhere"), is_root=True)
    (entry,) = route.emulators
    moved = Registration(entry.name, entry.magic, entry.mask, str(odd / "qemu"), entry.flags)

    assert run(executor, tmp_path, tiny_executable("riscv64", 6), emulators=(moved,)) == 6
