"""The two programs of a few instructions that a step meets: for this machine in steps, for others by QEMU."""

from __future__ import annotations

import marshal
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from anyarch.emulation.emulator import find_emulator
from anyarch.errors import SandboxError
from anyarch.sandbox.supervisor.programs import PROGRAMS, elf_file

if TYPE_CHECKING:
    from pathlib import Path

    from .conftest import Steps

MACHINES = sorted(PROGRAMS)

# In a new pid namespace: pid 2 leaves orphans behind and ends as it is told; pid 1 becomes the program.
_INIT = """
import ctypes, os, sys
assert ctypes.CDLL(None).unshare(0x20000000) == 0
pid = os.fork()
if pid == 0:
    if os.fork() == 0:
        for _ in range(3):
            if os.fork() == 0:
                os._exit(99)
        os.execv("/bin/sh", ["sh", "-c", sys.argv[1]])
    os.execv(sys.argv[2], sys.argv[2:])
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


def command(machine: str, part: int, directory: Path) -> list[str]:
    """How the program is run here: by itself or by QEMU."""
    path = directory / f"program-{machine}-{part}"
    path.write_bytes(elf_file(PROGRAMS[machine][0], PROGRAMS[machine][part]))
    path.chmod(0o755)
    if machine == os.uname().machine:
        return [str(path)]
    emulator = find_emulator(machine)
    if emulator is None:
        pytest.skip(f"there is no static qemu-{machine}")
    return [emulator.path, str(path)]


@pytest.mark.root
@pytest.mark.emulation
@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize(("script", "status"), [("sleep 0.1; exit 7", 7), ("exit 0", 0), ("kill -9 $$", 137)])
def test_init_outlives_orphans_and_ends_as_its_first_child(
    machine: str, script: str, status: int, tmp_path: Path
) -> None:
    argv = [sys.executable, "-c", _INIT, script, *command(machine, 2, tmp_path)]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert done.stdout == f"{status}\n"


def launch(
    machine: str, directory: Path, path: str, *argv: str, report: int
) -> subprocess.CompletedProcess[str]:
    """Run the program with `path` and `argv`, with `report` as its descriptor 3."""
    program = command(machine, 1, directory)
    words = [program[0], "-0", path, program[1], *argv] if len(program) == 2 else [path, *argv]
    setup = f"import os, sys; os.dup2({report}, 3); os.execv({program[0]!r}, sys.argv[1:])"
    return subprocess.run(
        [sys.executable, "-c", setup, *words],
        env={"A": "b"},
        pass_fds=(report,),
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.emulation
@pytest.mark.parametrize("machine", MACHINES)
def test_launch_executes_with_arguments_and_environment_alone(machine: str, tmp_path: Path) -> None:
    with open(os.devnull, "wb") as null:
        script = "echo $A-$1; test -e /proc/self/fd/3 || echo closed"
        done = launch(machine, tmp_path, "/bin/sh", "sh", "-c", script, "sh", "x y", report=null.fileno())

    assert done.stdout == "b-x y\nclosed\n"


@pytest.mark.emulation
@pytest.mark.parametrize("machine", MACHINES)
def test_launch_tells_why_it_could_not(machine: str, tmp_path: Path) -> None:
    read, write = os.pipe()
    done = launch(machine, tmp_path, "/nowhere/at/all", "x", report=write)
    os.close(write)
    frame = os.read(read, 100)
    os.close(read)

    assert done.returncode == 127
    assert int.from_bytes(frame[:4], sys.byteorder) == len(frame) - 4
    assert marshal.loads(frame[4:]) == 2  # ENOENT


@pytest.mark.root
def test_orphans_of_a_step_are_reaped(steps: Steps) -> None:
    out = steps.sh(
        "for i in 1 2 3; do (sleep 0.05 &); done; sleep 0.4; cat /proc/[0-9]*/stat | grep -c ' Z ' || true"
    )
    assert out == "0\n"


@pytest.mark.root
def test_step_cannot_end_or_stop_its_init(steps: Steps) -> None:
    out = steps.sh("kill -9 1; kill -STOP 1; kill 1; (sleep 0.05 &); sleep 0.2; grep State /proc/1/status")
    assert "T (" not in out


@pytest.mark.root
def test_init_has_no_call_and_no_right_that_the_step_has_not(steps: Steps) -> None:
    """A process of the same user may trace it, and have it call what it likes."""
    status = steps.sh("grep -E '^(Cap(Prm|Eff|Inh|Amb)|Seccomp:|NoNewPrivs)' /proc/1/status")
    assert {name: int(value, 16) for name, value in (line.split(":") for line in status.splitlines())} == {
        "CapInh": 0,
        "CapPrm": 0,
        "CapEff": 0,
        "CapAmb": 0,
        "NoNewPrivs": 1,
        "Seccomp": 2,
    }


@pytest.mark.root
def test_program_that_a_signal_ends_ends_so(steps: Steps) -> None:
    """As pid 1 it would be deaf to its own signals."""
    assert steps.run("sh", "-c", "kill -TERM $$; sleep 5") == 128 + 15


@pytest.mark.root
@pytest.mark.parametrize("name", ["/proc/self/exe", "/proc/1/exe", "/proc/self/task/1/exe", "/proc/2/exe"])
def test_executing_what_executes_gives_no_file_of_the_machine(steps: Steps, name: str) -> None:
    layer = steps.layer("scripts")
    (layer / "script").write_text(f"#!{name} /bin/cat /proc/self/exe\n")
    (layer / "script").chmod(0o755)
    with open(sys.executable, "rb") as file:
        python = file.read(64)

    for argv in ((name, "-c", "print(6 * 7)"), ("/script",)):
        try:
            steps.run(*argv, root=steps.root(steps.base, str(layer)))
        except SandboxError:
            continue
        assert b"42" not in steps.out
        assert python not in steps.out
