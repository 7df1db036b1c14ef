"""`anyarch emulators install` for real, in user namespaces with a binfmt_misc of their own: the machine's
table is never reached."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from anyarch.emulation import find_emulators
from anyarch.engine.request import Output

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from anyarch.testing.builder import Builder
    from tests.conftest import Bases

pytestmark = [pytest.mark.root, pytest.mark.emulation]

TABLE = "/proc/sys/fs/binfmt_misc"
# An instance that a user namespace mounts is its own; that it is empty proves that it is not the machine's.
_OWN_TABLE = f'mount -t binfmt_misc binfmt_misc {TABLE} && test "$(ls {TABLE} | wc -l)" = 2'


@pytest.fixture
def machine(tmp_path: Path) -> Callable[..., str]:
    """Runs lines of a shell in which `anyarch` is the command line, on a machine with an empty table."""

    def run(script: str, **variables: str) -> str:
        command = f'anyarch() {{ "{sys.executable}" -m anyarch "$@"; }}\n'
        done = subprocess.run(
            ["unshare", "-Urm", "sh", "-c", f"{_OWN_TABLE} || exit 99\n{command}{script}"],
            env={**os.environ, "ANYARCH_ROOT": str(tmp_path / "store"), **variables},
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_installed_emulators_run_programs_of_any_root_and_go_again(machine: Callable[..., str]) -> None:
    out = machine(
        f"""
        anyarch emulators install arm64,riscv64
        anyarch emulators ls --platform linux/arm64 --format json > $ANYARCH_ROOT.json
        anyarch emulators install arm64
        ls {TABLE}
        anyarch emulators uninstall all
        ls {TABLE}
        """
    )

    lines = out.splitlines()
    assert lines[0].startswith("arm64: registered: anyarch-qemu-aarch64: ")
    assert lines[2].startswith("arm64: kept: ")
    assert lines[3:7] == ["anyarch-qemu-aarch64", "anyarch-qemu-riscv64", "register", "status"]
    assert lines[7:9] == ["arm64: removed: anyarch-qemu-aarch64", "riscv64: removed: anyarch-qemu-riscv64"]
    assert lines[9:] == ["register", "status"]


def test_ls_shows_the_registration_and_its_flag(machine: Callable[..., str]) -> None:
    out = machine(
        "anyarch emulators install arm64 >&2; anyarch emulators ls --platform linux/arm64 --format json"
    )

    (status,) = json.loads(out)
    assert (status["route"], status["works"], status["registeredBy"]) == (
        "host",
        True,
        "anyarch-qemu-aarch64",
    )
    assert "F" in status["flags"]


def test_handler_of_others_is_left_alone(machine: Callable[..., str], tmp_path: Path) -> None:
    qemu = find_emulators()["aarch64"].path
    line = r":theirs:M:0:\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00:"
    line += r"\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff:"
    (tmp_path / "theirs").write_text(f"{line}{qemu}:")
    (tmp_path / "fixed").write_text(f"{line.replace('theirs', 'fixed')}{qemu}:F")

    out = machine(
        f"""
        cat {tmp_path}/theirs > {TABLE}/register
        anyarch emulators install arm64
        anyarch emulators uninstall all
        cat {tmp_path}/fixed > {TABLE}/register
        anyarch emulators install arm64
        anyarch emulators uninstall all
        ls {TABLE}
        """
    )

    assert out.splitlines()[0].startswith("arm64: registered:")  # theirs would fail in a sandbox
    assert out.splitlines()[2] == f"arm64: left: fixed serves it ({qemu})"
    assert out.splitlines()[3:] == ["nothing of ours is registered", "fixed", "register", "status", "theirs"]


def test_table_is_mounted_if_it_is_not(machine: Callable[..., str]) -> None:
    # Never with the machine's own table, which may lie beneath.
    out = machine(f"umount {TABLE}; test -e {TABLE}/register || anyarch emulators install riscv64")

    assert out == "" or out.startswith(f"mounted binfmt_misc at {TABLE}\nriscv64: registered:")


def test_emulator_that_does_not_work_is_told(machine: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "qemu").mkdir()
    broken = tmp_path / "qemu" / "qemu-s390x"
    broken.write_bytes(_false_program())
    broken.chmod(0o755)

    out = machine(f"anyarch emulators install --from {tmp_path}/qemu s390x && exit 1; true")

    assert out.startswith("s390x: broken: ")


def _false_program() -> bytes:
    from anyarch.elf.tiny import tiny_executable

    return tiny_executable("amd64", 1)


def test_emulators_come_out_of_an_image(
    machine: Callable[..., str], scratch_build: Builder, bases: Bases, tmp_path: Path
) -> None:
    with open(find_emulators()["riscv64"].path, "rb") as file:
        scratch_build(
            "FROM scratch\nCOPY --chmod=755 qemu-riscv64 /usr/bin/\n",
            files={"qemu-riscv64": file.read()},
            outputs=(Output("image", attrs={"name": f"{bases.registry}/binfmt:1", "push": "true"}),),
        )

    out = machine(
        f"""
        anyarch emulators install --from-image {bases.registry}/binfmt:1 all
        anyarch emulators ls --platform linux/riscv64 --format json >&2
        anyarch emulators uninstall riscv64
        """
    )

    first, second = out.splitlines()
    assert first.startswith(f"riscv64: registered: anyarch-qemu-riscv64: {tmp_path}/store/emulators/")
    assert second == "riscv64: removed: anyarch-qemu-riscv64"
    assert not list((tmp_path / "store/emulators").iterdir())
