"""The namespaces with a private binfmt_misc, which are made while the first step that needs one is set up."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import msgspec
import pytest

from anyarch.elf.tiny import tiny_executable
from anyarch.emulation.emulator import QEMU_ARCHITECTURES, find_emulators, registration
from anyarch.errors import Canceled, SandboxError
from anyarch.sandbox.plan import RootFS

if TYPE_CHECKING:
    from pathlib import Path

    from anyarch.sandbox.plan import Registration

    from .conftest import Steps

pytestmark = pytest.mark.root

_CODE = 42


def _registrations() -> dict[str, Registration]:
    """Of every emulator that is here, by the architecture's name on platforms."""
    emulators = find_emulators()
    return {
        platform: registration(emulators[arch])
        for platform, arch in QEMU_ARCHITECTURES.items()
        if arch in emulators and arch != os.uname().machine and platform not in ("386", "amd64")
    }


def _foreign(steps: Steps, architecture: str) -> RootFS:
    layer = steps.layer(f"layer-{architecture}")
    (layer / "program").write_bytes(tiny_executable(architecture, _CODE))
    (layer / "program").chmod(0o755)
    return RootFS((str(layer),))


def test_steps_that_need_the_same_new_emulators_at_once_all_get_them(steps: Steps) -> None:
    entries = _registrations()
    root = _foreign(steps, "arm64")

    def run(_number: int) -> int:
        request = steps.request("/program", root=root, emulators=tuple(entries.values()))
        return steps.executor.run(request, on_output=lambda _stream, _data: None)

    with ThreadPoolExecutor(6) as threads:
        assert list(threads.map(run, range(6))) == [_CODE] * 6


def test_one_step_runs_programs_of_every_architecture_that_it_has_emulators_for(steps: Steps) -> None:
    entries = _registrations()
    assert {"arm64", "arm", "riscv64", "s390x", "ppc64le"} <= set(entries)
    layer = steps.layer("programs")
    for architecture in entries:
        (layer / architecture).write_bytes(tiny_executable(architecture, _CODE))
        (layer / architecture).chmod(0o755)
    script = f"for f in {' '.join(entries)}; do c=0; /$f || c=$?; echo $f $c; done"
    root = RootFS((steps.base, str(layer)))
    told = steps.sh(script, root=root, emulators=tuple(entries.values()))
    assert sorted(told.splitlines()) == sorted(f"{architecture} {_CODE}" for architecture in entries)


def test_an_emulator_that_is_missing_is_named_by_each_step_and_tried_again(
    steps: Steps, tmp_path: Path
) -> None:
    entry = _registrations()["arm64"]
    path = tmp_path / "qemu-late"
    late = msgspec.structs.replace(entry, interpreter=str(path))
    root = _foreign(steps, "arm64")
    for _ in range(2):
        with pytest.raises(SandboxError, match="qemu-late"):
            steps.run("/program", root=root, emulators=(late,))
    with pytest.raises(SandboxError, match="qemu-late"):
        steps.executor.check_emulators((late,))
    path.symlink_to(entry.interpreter)
    steps.executor.check_emulators((late,))
    assert steps.run("/program", root=root, emulators=(late,)) == _CODE


def test_a_step_that_is_cancelled_while_its_emulators_are_registered_takes_nothing_from_others(
    steps: Steps,
) -> None:
    entry = _registrations()["arm64"]
    root = _foreign(steps, "arm64")
    for number in range(5):
        new = msgspec.structs.replace(entry, name=f"qemu-{number}")
        cancel = threading.Event()
        cancel.set()
        request = steps.request("/program", root=root, emulators=(new,))
        with pytest.raises(Canceled):
            steps.executor.run(request, on_output=lambda _stream, _data: None, cancel=cancel)
        assert steps.run("/program", root=root, emulators=(new,)) == _CODE


def test_the_program_of_the_first_emulated_step_finds_nothing_open(steps: Steps) -> None:
    entry = _registrations()["arm64"]
    new = msgspec.structs.replace(entry, name="qemu-first")
    told = steps.sh("ls /proc/self/fd", emulators=(new,))
    assert set(told.split()) <= {"0", "1", "2", "3"}  # 3 is the directory that ls reads
