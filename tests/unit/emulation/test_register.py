"""Registering with the machine's table: which entries are written, and which are left alone. No table of a
kernel is touched here."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from anyarch.elf.tiny import tiny_executable
from anyarch.emulation.emulator import Emulator, emulators_in, registration
from anyarch.emulation.register import (
    Change,
    architectures,
    ensure_mounted,
    install,
    kernel_version,
    register_line,
    uninstall,
)
from anyarch.errors import SandboxError, UsageError
from anyarch.sandbox.plan import Registration
from tests.unit.emulation.test_host import handler_text, place_emulator

if TYPE_CHECKING:
    from pathlib import Path

QEMU = Emulator("aarch64", "/nowhere/qemu-aarch64")
OURS = "anyarch-qemu-aarch64"


@pytest.fixture
def table(tmp_path: Path) -> Path:
    directory = tmp_path / "binfmt_misc"
    directory.mkdir()
    (directory / "register").touch()
    (directory / "status").write_text("enabled\n")
    return directory


def install_one(table: Path, emulator: Emulator | None = QEMU) -> Change:
    (change,) = install(["aarch64"], {"aarch64": emulator} if emulator else {}, directory=str(table))
    return change


def test_what_is_served_by_nobody_is_registered_with_flag_f(table: Path) -> None:
    change = install_one(table)

    assert change.action == "registered"
    line = (table / "register").read_bytes()
    assert line.startswith(b":anyarch-qemu-aarch64:M:0:\\x7f\\x45\\x4c\\x46\\x02")
    assert line.endswith(b":/nowhere/qemu-aarch64:PCF")


def test_handler_of_others_that_serves_is_left_alone(table: Path) -> None:
    (table / "qemu-aarch64").write_text(handler_text("aarch64", "/usr/bin/theirs"))

    change = install_one(table)

    assert (change.action, change.detail) == ("left", "qemu-aarch64 serves it (/usr/bin/theirs)")
    assert not (table / "register").read_bytes()


def test_handler_of_others_without_flag_f_does_not_stand_in_the_way(table: Path) -> None:
    theirs = handler_text("aarch64", "/usr/bin/theirs", flags="OC")
    (table / "qemu-aarch64").write_text(theirs)

    assert install_one(table).action == "registered"
    assert (table / "qemu-aarch64").read_text() == theirs


def test_our_own_entry_is_kept_or_replaced_by_another_emulator(table: Path) -> None:
    (table / OURS).write_text(handler_text("aarch64", QEMU.path))
    assert install_one(table).action == "kept"
    assert not (table / "register").read_bytes()

    assert install_one(table, Emulator("aarch64", "/elsewhere/qemu")).action == "replaced"
    assert (table / OURS).read_text().startswith("-1")  # that is how the kernel is told to remove it
    assert b"/elsewhere/qemu" in (table / "register").read_bytes()


def test_our_own_entry_that_was_switched_off_is_replaced(table: Path) -> None:
    (table / OURS).write_text(handler_text("aarch64", QEMU.path, state="disabled"))

    assert install_one(table).action == "replaced"


def test_architecture_without_an_emulator_is_told(table: Path) -> None:
    assert install_one(table, None) == Change("aarch64", "missing", "no static qemu-aarch64 was found")


def test_qemu_before_6_is_registered_without_the_flag_it_does_not_know(table: Path, tmp_path: Path) -> None:
    script = tmp_path / "qemu-aarch64"
    place_emulator(script, b"#!/bin/sh\necho 'qemu-aarch64 version 5.2.0'\n")

    install_one(table, Emulator("aarch64", str(script)))

    assert (table / "register").read_bytes().endswith(b":CF")


def test_uninstall_removes_ours_only(table: Path) -> None:
    theirs = handler_text("aarch64", "/usr/bin/theirs")
    for name in ("qemu-aarch64", "python3", OURS, "anyarch-qemu-arm"):
        (table / name).write_text(theirs)

    assert [c.arch for c in uninstall(["aarch64"], directory=str(table))] == ["aarch64"]
    assert (table / "anyarch-qemu-arm").read_text() == theirs
    assert [c.arch for c in uninstall(None, directory=str(table))] == ["aarch64", "arm"]
    for name in ("qemu-aarch64", "python3"):
        assert (table / name).read_text() == theirs


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("arm64,riscv64", ["aarch64", "riscv64"]),
        ("linux/arm/v7, aarch64", ["arm", "aarch64"]),
        ("qemu-s390x", ["s390x"]),
        ("arm64,aarch64", ["aarch64"]),
    ],
)
def test_architectures_go_by_platforms_and_by_qemus_names(text: str, found: list[str]) -> None:
    assert architectures(text) == found


def test_all_architectures_are_those_that_are_not_native() -> None:
    found = architectures("all", native=["amd64", "386"])

    assert "aarch64" in found
    assert not {"x86_64", "i386"} & set(found)
    with pytest.raises(UsageError, match="hexagon"):
        architectures("hexagon")


@pytest.mark.parametrize(
    ("release", "version"),
    [("6.1.0-13-amd64", (6, 1)), ("4.8", (4, 8)), ("4.19-rc1", (4, 19)), ("x", (0, 0))],
)
def test_kernel_version_is_read_from_its_release(release: str, version: tuple[int, int]) -> None:
    assert kernel_version(release) == version


def test_table_that_is_switched_off_says_how_to_switch_it_on(
    table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert ensure_mounted(str(table)) is False
    (table / "status").write_text("disabled\n")

    with pytest.raises(SandboxError, match="switched off") as caught:
        ensure_mounted(str(table))
    assert "echo 1" in (caught.value.hint or "")


def test_ordinary_user_is_told_that_builds_need_no_registration(
    table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(SandboxError, match="only root") as caught:
        ensure_mounted(str(table))
    assert "need no registration" in (caught.value.hint or "")


def test_path_with_a_colon_gets_another_separator() -> None:
    entry = registration(Emulator("arm", "/a:b/qemu-arm"))
    assert register_line(entry).startswith(b";qemu-arm;M;0;")
    with pytest.raises(SandboxError, match="odd"):
        register_line(Registration("x", b"", b"", "/a\nb", "F"))


def test_only_static_programs_of_a_directory_count(tmp_path: Path) -> None:
    place_emulator(tmp_path / "qemu-arm", tiny_executable("amd64"))
    place_emulator(tmp_path / "qemu-riscv64-static", tiny_executable("amd64"))
    place_emulator(tmp_path / "qemu-s390x", b"#!/bin/sh\n")

    assert {arch: e.path for arch, e in emulators_in(str(tmp_path)).items()} == {
        "arm": str(tmp_path / "qemu-arm"),
        "riscv64": str(tmp_path / "qemu-riscv64-static"),
    }
