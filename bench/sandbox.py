"""Single steps without a build around them, the registration of emulators, and the architecture check.

All in this process: a step is one `Executor.run`, with all its security measures on; the peer is `runc run`.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import statistics
import subprocess
import tarfile
import time
from typing import TYPE_CHECKING

import msgspec

from anyarch.emulation.emulator import QEMU_ARCHITECTURES, find_emulator, registration
from anyarch.engine import solve
from anyarch.engine.export import Exporter
from anyarch.engine.request import BuildRequest, Output
from anyarch.engine.truthcheck import TruthCheck
from anyarch.sandbox.executor import Executor
from anyarch.sandbox.plan import ExecRequest, RootFS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from anyarch.sandbox.plan import Registration

__all__ = ["Measured", "measure_check", "measure_steps"]

_ROUNDS, _WARM_UP = 60, 5
_REGISTERED = ("aarch64", "arm", "riscv64", "s390x", "ppc64le")


class Measured:
    """Medians in seconds."""

    def __init__(self) -> None:
        self.native = self.foreign = self.peer = self.registration = 0.0


def measure_steps(directory: Path, busybox: Path) -> Measured:
    """`busybox` holds `rootfs-ARCH.tar` files of amd64 (or this machine's) and arm64."""
    directory.mkdir()
    native = "arm64" if os.uname().machine == "aarch64" else "amd64"
    foreign = "amd64" if native == "arm64" else "arm64"
    for name in (native, foreign):
        with tarfile.open(busybox / f"rootfs-{name}.tar") as archive:
            archive.extractall(directory / name, filter="fully_trusted")
    emulator = find_emulator(QEMU_ARCHITECTURES[foreign])
    assert emulator is not None, f"the benchmark needs a static qemu-{QEMU_ARCHITECTURES[foreign]}"
    found = Measured()
    runc = _bundle(directory, directory / native)
    with Executor(directory / "state") as executor:
        sides: tuple[Callable[[int], float], ...] = (
            lambda number: _step(executor, directory, native, number, ()),
            lambda number: _step(executor, directory, foreign, number, (registration(emulator),)),
            lambda number: _runc(runc, number),
        )
        times: list[list[float]] = [[] for _ in sides]
        for number in range(_ROUNDS):
            for taken, side in zip(times, sides, strict=True):
                taken.append(side(number))
        found.native, found.foreign, found.peer = (statistics.median(taken[_WARM_UP:]) for taken in times)
        found.registration = _registration(executor, directory, native)
    return found


def _step(
    executor: Executor, directory: Path, name: str, number: int, emulators: tuple[Registration, ...]
) -> float:
    work = directory / f"{name}-{number}"
    for part in ("upper", "work"):
        (work / part).mkdir(parents=True)
    request = ExecRequest(
        ("/bin/busybox", "true"),
        RootFS((str(directory / name),), str(work / "upper"), str(work / "work")),
        emulators=emulators,
    )
    started = time.perf_counter()
    code = executor.run(request, on_output=lambda _stream, _data: None)
    taken = time.perf_counter() - started
    assert code == 0
    shutil.rmtree(work)
    return taken


def _registration(executor: Executor, directory: Path, name: str) -> float:
    """What five emulators that are new to it add to a step, against one that has them already."""
    known = [registration(found) for each in _REGISTERED if (found := find_emulator(each)) is not None]
    added = []
    for number in range(_ROUNDS):
        new = tuple(msgspec.structs.replace(entry, name=f"{entry.name}-{number}") for entry in known)
        first = _step(executor, directory, name, number, new)
        added.append(first - _step(executor, directory, name, number, tuple(known)))
    return statistics.median(added[_WARM_UP:])


def _bundle(directory: Path, rootfs: Path) -> Path:
    bundle = directory / "bundle"
    bundle.mkdir()
    subprocess.run(["runc", "spec"], cwd=bundle, check=True)
    config = json.loads((bundle / "config.json").read_text())
    config["process"].update(terminal=False, args=["/bin/busybox", "true"])
    config["root"] = {"path": str(rootfs), "readonly": True}
    (bundle / "config.json").write_text(json.dumps(config))
    return bundle


def _runc(bundle: Path, number: int) -> float:
    started = time.perf_counter()
    done = subprocess.run(
        ["runc", "run", f"anyarch-bench-{os.getpid()}-{number}"],
        cwd=bundle,
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr.decode()
    return time.perf_counter() - started


def measure_check(directory: Path, context: Path) -> tuple[float, float]:
    """CPU seconds of the architecture check and of the export of a whole Debian system, medians of fresh
    stores."""
    directory.mkdir()
    (archive,) = context.glob("*.tar")
    text = f'FROM scratch\nADD {archive.name} /\nCMD ["bash"]\n'
    times: dict[str, list[float]] = {"check": [], "export": []}
    check, export = TruthCheck.check, Exporter.export

    def timed_check(*arguments: object) -> object:
        started = time.process_time()
        try:
            return check(*arguments)  # type: ignore[arg-type]
        finally:
            times["check"].append(time.process_time() - started)

    async def timed_export(*arguments: object, **named: object) -> object:
        started = time.process_time()
        try:
            return await export(*arguments, **named)  # type: ignore[arg-type]
        finally:
            times["export"].append(time.process_time() - started)

    TruthCheck.check, Exporter.export = timed_check, timed_export  # type: ignore[assignment,method-assign]
    try:
        for number in range(7):
            store = directory / f"store-{number}"
            request = BuildRequest(
                context=str(context),
                dockerfile_data=text.encode(),
                root=str(store),
                outputs=(Output("oci", dest=str(directory / "out.tar")),),
            )
            asyncio.run(solve.build_async(request, lambda _event: None))
            shutil.rmtree(store)
    finally:
        TruthCheck.check, Exporter.export = check, export  # type: ignore[method-assign]
    return statistics.median(times["check"]), statistics.median(times["export"])
