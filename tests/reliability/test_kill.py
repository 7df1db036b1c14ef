"""A store that a killed build left works on the next start, without repair by hand."""

from __future__ import annotations

import bisect
import random
import shutil
import signal
import time
from typing import TYPE_CHECKING

import pytest

from anyarch.store.store import Store
from tests.conftest import run_anyarch
from tests.reliability.processes import leftovers, mounts_below

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

    from tests.conftest import Bases
    from tests.reliability.processes import Family

pytestmark = [pytest.mark.root, pytest.mark.emulation, pytest.mark.registry]

MOMENTS = 50
LANES = 2
PLATFORMS = "linux/amd64,linux/386,linux/arm64,linux/riscv64"
# A base of two files: unpacking hundreds of busybox' links fifty times would take most of the time.
BASE = """
FROM busybox AS full
FROM scratch
COPY --from=full /bin/busybox /bin/busybox
COPY --from=full /bin/busybox /bin/sh
"""
DOCKERFILE = """
FROM {base} AS base
COPY a /a/
RUN b=/bin/busybox; $b mkdir /d; $b seq 1 2000 > /d/n; $b sha256sum /a/* /d/n > /d/sum; $b rm -r /a/1
RUN /bin/busybox uname -m > /d/machine
FROM {base}
COPY --from=base /a /d /all/
COPY b /b/
"""


class Build:
    """One and the same build into a store of choice."""

    def __init__(self, bases: Bases, base: str, directory: Path) -> None:
        self._environment = bases.environment
        self._context = directory / "context"
        for name in "ab":
            (self._context / name).mkdir(parents=True)
            for number in range(8):
                (self._context / name / str(number)).write_bytes(bytes([97 + number]) * 20_000)
        (self._context / "Dockerfile").write_text(DOCKERFILE.format(base=base))

    def start(self, processes: Family, store: Path, out: Path) -> subprocess.Popen[str]:
        return processes.start(
            *("build", "--platform", PLATFORMS, "--build-arg", "SOURCE_DATE_EPOCH=1700000000"),
            *("--output", f"type=oci,tar=false,rewrite-timestamp=true,dest={out}", "--progress", "rawjson"),
            str(self._context),
            environment={**self._environment, "ANYARCH_ROOT": str(store)},
        )

    def whole(self, processes: Family, store: Path, out: Path) -> list[float]:
        """Build undisturbed; after how many seconds each line of progress came, and the end."""
        process = self.start(processes, store, out)
        started = time.monotonic()
        assert process.stderr is not None
        lines = []
        times = []
        for line in process.stderr:
            lines.append(line)
            times.append(time.monotonic() - started)
        assert process.wait() == 0, "".join(lines)
        return [*times, time.monotonic() - started]

    def killed(self, processes: Family, store: Path, out: Path, *, lines: int, delay_s: float) -> bool:
        """Build and kill -9 the process so long after so many lines of progress; False when it was faster."""
        process = self.start(processes, store, out)
        assert process.stderr is not None
        for _ in range(lines):
            process.stderr.readline()
        time.sleep(delay_s)
        process.kill()
        output = process.communicate()
        assert process.returncode in (0, -signal.SIGKILL), output
        return process.returncode != 0


def at_fraction(times: list[float], fraction: float) -> tuple[int, float]:
    """The lines of progress, and the seconds after the last of them, at a fraction of a build's time: told
    so, a moment stays the same part of the build when the machine is busier than it was."""
    moment = fraction * times[-1]
    lines = bisect.bisect_right(times, moment)
    return lines, moment - (times[lines - 1] if lines else 0.0)


def content_of(layout: Path) -> dict[str, bytes]:
    """All files of an image layout, leftovers of writing it included."""
    return {str(path.relative_to(layout)): path.read_bytes() for path in layout.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def base(bases: Bases, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The name of an image for `PLATFORMS` with little more than a shell."""
    directory = tmp_path_factory.mktemp("base")
    (directory / "Dockerfile").write_text(BASE)
    name = f"{bases.registry}/reliability/small"
    run_anyarch(
        *("build", "--platform", PLATFORMS, "--tag", name, "--push", str(directory)),
        environment={**bases.environment, "ANYARCH_ROOT": str(directory / "store")},
    )
    return name


@pytest.mark.parametrize("lane", range(LANES))
def test_a_build_killed_at_any_moment_leaves_a_store_that_works(
    bases: Bases, base: str, processes: Family, tmp_path: Path, lane: int
) -> None:
    build = Build(bases, base, tmp_path)
    build.whole(processes, tmp_path / "first", tmp_path / "wanted")
    wanted = content_of(tmp_path / "wanted")
    fractions = sorted(random.Random(20231114).random() for _ in range(MOMENTS))[lane::LANES]
    times: list[float] = []
    for fraction in fractions:
        store, out = tmp_path / "store", tmp_path / "out"
        killed = False
        while not killed:
            if not times:
                times = build.whole(processes, tmp_path / "undisturbed", tmp_path / "out")
                assert content_of(tmp_path / "out") == wanted
                shutil.rmtree(tmp_path / "undisturbed")
                shutil.rmtree(tmp_path / "out")
            lines, delay_s = at_fraction(times, fraction)
            killed = build.killed(processes, store, out, lines=lines, delay_s=delay_s)
            where = f"killed {delay_s:.4f} s after line {lines} of {len(times)} ({fraction:.3f} of the time)"
            assert processes.remaining() == {}, where
            assert mounts_below(tmp_path) == [], where
            build.whole(processes, store, out)
            assert content_of(out) == wanted, where
            assert leftovers(store) == [], where
            with Store.open(store) as opened:
                assert opened.verify() == [], where
            shutil.rmtree(store)
            shutil.rmtree(out)
            if not killed:
                times = []
