"""`anyarch emulators install` for real, in user namespaces with a binfmt_misc of their own: the machine's
table is never reached."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from anyarch.emulation import find_emulators
from anyarch.engine.request import Output
from anyarch.errors import EmulatorMissing, ExecFailed

if TYPE_CHECKING:
    from collections.abc import Callable

    from anyarch.testing.builder import Builder
    from tests.conftest import Bases

pytestmark = [pytest.mark.root, pytest.mark.emulation]

ARM64 = "linux/arm64"
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


def test_registration_in_a_user_namespace_is_told_to_end_with_it(machine: Callable[..., str]) -> None:
    out = machine("anyarch emulators install arm64 2>&1")
    assert "WARNING: this is a user namespace" in out


def test_root_of_a_machine_without_private_ones_registers_what_a_build_needs(
    machine: Callable[..., str], bases: Bases
) -> None:
    """User namespaces are forbidden in it, as they would lack binfmt_misc before Linux 6.7."""
    out = machine(
        f"""
        echo 0 > /proc/sys/user/max_user_namespaces
        anyarch emulators ls --platform linux/riscv64
        anyarch emulators ls --platform linux/riscv64 >&2
        printf 'FROM busybox\\nRUN uname -m\\n' > $ANYARCH_ROOT.Dockerfile
        ls {TABLE}
        for i in 1 2; do
            anyarch build --no-cache --progress plain --platform linux/riscv64 \\
                - < $ANYARCH_ROOT.Dockerfile 2>&1
        done
        ls {TABLE}
        """,
        **bases.environment,
    )

    told, built = out.split("register\nstatus\n", 1)
    assert "registers" in told.splitlines()[1]
    assert "anyarch-qemu" not in told.splitlines()[-1]  # looking changes nothing
    assert "WARN: registered with this machine" in built
    assert built.count("riscv64\n") >= 2
    assert built.endswith("anyarch-qemu-riscv64\nregister\nstatus\n")


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


# which emulator a build uses


def test_build_uses_the_emulators_of_the_directory_it_is_given(build: Builder, tmp_path: Path) -> None:
    """They are told apart by what a step cannot hide: the version that the emulator says of itself."""
    chosen = tmp_path / "qemu"
    chosen.mkdir()
    qemu = find_emulators()["aarch64"].path
    shutil.copy(qemu, chosen / "qemu-aarch64")
    with pytest.raises(ExecFailed) as caught:
        build("FROM busybox\nRUN sh -c 'kill -SEGV $$'; exit $?\n", platform=ARM64, emulators=str(chosen))

    assert caught.value.status == 139
    version = find_emulators()["aarch64"].version().split()[0]
    assert f"crashed under qemu-aarch64 {version}" in (caught.value.hint or "")
    assert f"({chosen}/qemu-aarch64)" in (caught.value.hint or "")
    assert "--emulators" in (caught.value.hint or "")


def test_directory_without_the_emulator_fails_before_any_work(build: Builder, tmp_path: Path) -> None:
    with pytest.raises(EmulatorMissing, match=f"{tmp_path} holds no static qemu-aarch64"):
        build("FROM busybox\nRUN true\n", platform=ARM64, emulators=str(tmp_path))


def test_step_that_misses_device_nodes_in_its_user_namespace_is_told(build: Builder) -> None:
    with pytest.raises(ExecFailed) as caught:
        build("FROM busybox\nRUN mknod /node c 1 3\n", platform=ARM64, emulators=_directory_of_qemu())
    assert "anyarch emulators install arm64" in (caught.value.hint or "")

    image = build("FROM busybox\nRUN mknod /node c 1 3; ls -l /node > /x\n", platform="linux/amd64")
    assert image.read_text("/x").startswith("crw")


def test_native_and_foreign_programs_run_in_one_step(build: Builder) -> None:
    build.write({"amd64": _native_program()})
    image = build(
        "FROM busybox\nCOPY --chmod=755 amd64 /native\nRUN uname -m > /x; /native; echo $? >> /x\n",
        platform=ARM64,
        arch_check="off",
    )
    assert image.read_text("/x").split() == ["aarch64", "33"]


def test_foreign_program_in_a_native_step_is_explained(build: Builder) -> None:
    from anyarch.elf.tiny import tiny_executable

    if any("riscv64" in name for name in os.listdir(TABLE)):
        pytest.skip("this machine runs programs of riscv64 everywhere")
    build.write({"foreign": tiny_executable("riscv64", 33)})
    with pytest.raises(ExecFailed) as caught:
        build("FROM busybox\nCOPY --chmod=755 foreign /foreign\nRUN /foreign\n", arch_check="off")
    assert "FROM --platform" in (caught.value.hint or "")


def test_emulator_is_a_part_of_the_key_of_emulated_steps_alone(
    build: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "FROM busybox\nRUN cat /proc/sys/kernel/random/uuid > /id\n"
    before = build(text, platform=("linux/amd64", ARM64))
    monkeypatch.setattr("anyarch.emulation.emulator.Emulator.version", lambda *_: "99.0 (test)")
    after = build(text, platform=("linux/amd64", ARM64))

    assert after.read_text("/id", "linux/amd64") == before.read_text("/id", "linux/amd64")
    assert after.read_text("/id", ARM64) != before.read_text("/id", ARM64)


def _directory_of_qemu() -> str:
    return os.path.dirname(find_emulators()["aarch64"].path)


def _native_program() -> bytes:
    from anyarch.elf.tiny import tiny_executable

    return tiny_executable("amd64", 33)


@pytest.mark.parametrize("platform", ["linux/amd64", ARM64])
def test_setuid_programs_give_a_user_of_a_step_what_they_should(build: Builder, platform: str) -> None:
    import struct

    from anyarch.elf.tiny import executable

    # exit_group(geteuid())
    amd64 = executable("amd64", bytes.fromhex("b86b0000000f0589c7b8e70000000f05"))
    arm64 = executable("arm64", struct.pack("<4I", 0xD28015E8, 0xD4000001, 0xD2800BC8, 0xD4000001))
    build.write({"amd64": amd64, "arm64": arm64})
    image = build(
        "FROM busybox\nARG TARGETARCH\nCOPY --chmod=4755 $TARGETARCH /suid\n"
        "COPY --chmod=755 $TARGETARCH /plain\n"
        "RUN mkdir -m 777 /out\nUSER 33\nRUN /suid; echo $? > /out/x; /plain; echo $? >> /out/x\n",
        platform=platform,
    )
    assert image.read_text("/out/x").split() == ["0", "33"]


def test_native_program_in_an_emulated_step_cannot_change_the_emulator(
    build: Builder, tmp_path: Path
) -> None:
    """What an emulated process executes is the machine's file, and /proc leads to it."""
    chosen = tmp_path / "qemu"
    chosen.mkdir()
    qemu = find_emulators()["aarch64"].path
    shutil.copy(qemu, chosen / "qemu-aarch64")
    with open("/bin/busybox", "rb") as file:
        build.write({"native": file.read()})
    script = "exec 5</proc/2/exe; (echo x >> /proc/2/exe); (: > /proc/self/fd/5); /n/busybox head -c 4 <&5"
    image = build(
        "FROM busybox\nCOPY --chmod=755 native /n/busybox\n"
        f"RUN sh -c 'sleep 1' & /n/busybox sh -c '{script}' > /out 2>&1; true\n",
        platform=ARM64,
        emulators=str(chosen),
        arch_check="off",
    )
    assert "ELF" in image.read_text("/out")  # it was the emulator that was opened
    assert image.read_text("/out").count("can't create") == 2
    assert (chosen / "qemu-aarch64").read_bytes() == Path(qemu).read_bytes()
