"""What `emulators ls` is made of."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from anyarch.emulation.survey import platforms_of_interest, survey
from tests.unit.emulation.test_host import AMD64, ARM64, QEMU, RefusingExecutor, handler_text, machine

if TYPE_CHECKING:
    from pathlib import Path

    from anyarch.emulation.host import Host
    from anyarch.emulation.survey import Status
    from anyarch.spec.platform import Platform


def status(host: Host, platform: Platform = ARM64, *, is_root: bool = True) -> Status:
    (found,) = survey([platform], host, None, is_root=is_root)
    return found


@pytest.fixture
def binfmt_misc(tmp_path: Path) -> Path:
    (tmp_path / "status").write_text("enabled\n")
    return tmp_path


def test_native_platforms_come_first_and_each_other_architecture_once() -> None:
    names = [str(platform) for platform in platforms_of_interest(machine())]

    assert names[:2] == ["linux/amd64", "linux/386"]
    assert "linux/arm/v7" in names
    assert "linux/s390x" in names
    assert len(names) == len(set(names))


def test_native_platform_needs_no_interpreter() -> None:
    found = status(machine(), AMD64)

    assert (found.route, found.interpreter, found.is_usable) == ("native", "", True)


def test_private_route_shows_the_emulator() -> None:
    found = status(machine(emulator=QEMU))

    assert (found.route, found.interpreter, found.registered_by) == ("private", QEMU.path, "private")
    assert "F" in found.flags
    assert found.works is None


def test_host_route_shows_whose_handler_it_is(binfmt_misc: Path) -> None:
    (binfmt_misc / "qemu-arm64-of-debian").write_text(handler_text("aarch64", "/usr/bin/q", "POCF"))

    found = status(machine(binfmt_misc=binfmt_misc))

    assert (found.route, found.interpreter, found.flags) == ("host", "/usr/bin/q", "POCF")
    assert found.registered_by == "qemu-arm64-of-debian"


def test_handler_without_flag_f_is_noted_with_the_reason(binfmt_misc: Path) -> None:
    (binfmt_misc / "old").write_text(handler_text("aarch64", "/usr/bin/q", "OC"))

    found = status(machine(binfmt_misc=binfmt_misc, emulator=QEMU))

    assert found.route == "private"
    assert "old lacks the flag F" in found.notes[0]
    assert "inside the step's root file system" in found.notes[0]


def test_platform_that_a_build_of_root_would_register_says_so() -> None:
    found = status(machine(emulator=QEMU, executor=RefusingExecutor("the gate is shut")))

    assert (found.route, found.works) == ("register", None)
    assert found.is_usable
    assert "the gate is shut" in found.notes[-1]


def test_platform_without_a_route_says_what_is_missing_and_what_to_do() -> None:
    host = machine(emulator=QEMU, executor=RefusingExecutor("the gate is shut"))
    (found,) = survey([ARM64], host, None, is_root=False)

    assert not found.is_usable
    assert "the gate is shut" in found.problem
    assert found.hint
