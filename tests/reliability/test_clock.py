"""Clocks that are set while a daemon and its builds run: results, caches, records and limits do not mind.

The clock is that of the daemon's process, by a file that says how wrong it is; the machine's own is left
alone."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from anyarch.testing.socket_daemon import SocketDaemon
from tests.conftest import run_anyarch

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.conftest import Bases
    from tests.reliability.processes import Family

pytestmark = [pytest.mark.root, pytest.mark.registry]

HOUR = 3600.0
PLAIN = ("build", "--progress", "plain")

_DAEMON = """
import sys, time
_path = sys.argv.pop(1)

def _wrong_by():
    with open(_path) as file:
        return float(file.read() or 0)

def _set(name, scale):
    real = getattr(time, name)
    setattr(time, name, lambda: real() + type(real())(_wrong_by() * scale))

_set("time", 1)
_set("time_ns", 1_000_000_000)
_gmtime = time.gmtime
time.gmtime = lambda seconds=None: _gmtime(time.time() if seconds is None else seconds)
from anyarch.daemon.main import main
sys.exit(main())
"""


class Wrong:
    """A daemon, a client of it, and the daemon's clock."""

    def __init__(self, directory: Path, bases: Bases) -> None:
        self._clock = directory / "clock"
        self.set(0)
        argv = [sys.executable, "-c", _DAEMON, str(self._clock)]
        self.daemon = SocketDaemon(directory / "d", argv=argv, environment=bases.environment)
        self.environment = {
            **bases.environment,
            "ANYARCH_ROOT": str(directory / "client"),
            "BUILDX_CONFIG": str(directory / "buildx"),
        }
        self("create", "--use", "--name", "d", "--driver", "remote", self.daemon.endpoint)

    def set(self, hours: float) -> None:
        temporary = self._clock.with_suffix(".new")
        temporary.write_text(str(hours * HOUR))
        temporary.replace(self._clock)

    def __call__(self, *words: str) -> str:
        return run_anyarch(*words, environment=self.environment)

    def records(self) -> list[dict[str, object]]:
        """Of the history, newest first."""
        lines = self("history", "ls", "--format", "json").splitlines()
        return [json.loads(line) for line in lines]


@pytest.fixture
def wrong(tmp_path: Path, bases: Bases) -> Iterator[Wrong]:
    made = Wrong(tmp_path, bases)
    try:
        yield made
    finally:
        made.daemon.close()


def context(directory: Path, name: str, recipe: str) -> str:
    (directory / name).mkdir()
    (directory / name / "Dockerfile").write_text(recipe)
    return str(directory / name)


@pytest.mark.parametrize("hours", [-7, 7], ids=["back", "forward"])
def test_a_clock_set_during_a_build_changes_nothing_of_it(
    wrong: Wrong, processes: Family, tmp_path: Path, hours: int
) -> None:
    wait = "b=0; while test $b -lt 600 && ! test -e /gate/go; do sleep 0.1; b=$((b+1)); done"
    output = "b=0; while test $b -lt 30; do head -c 3000 /dev/zero | tr '\\0' x; echo; b=$((b+1)); done"
    recipe = (
        "FROM busybox\n"
        f"RUN --mount=type=cache,target=/gate,id=gate,sharing=shared touch /gate/begun; {wait}; {output}; "
        "mkdir /made && echo yes > /made/file\n"
    )
    path = context(tmp_path, "c", recipe)
    words = [*PLAIN, "-o", f"type=local,dest={tmp_path}/out", path]
    log = tmp_path / "log"
    with log.open("wb") as file:
        building = processes.start(
            *words, environment=wrong.environment, stdout=file, stderr=subprocess.STDOUT
        )
    gate = "FROM busybox\nRUN --mount=type=cache,target=/gate,id=gate,sharing=shared {}\n"
    begun = "b=0; while test $b -lt 600 && ! test -e /gate/begun; do sleep 0.1; b=$((b+1)); done"
    wrong("build", "--progress", "quiet", context(tmp_path, "begun", gate.format(begun)))
    wrong.set(hours)
    wrong("build", "--progress", "quiet", context(tmp_path, "go", gate.format("touch /gate/go")))
    assert building.wait(90) == 0, log.read_text()
    assert (tmp_path / "out" / "made" / "file").read_text() == "yes\n"
    told = log.read_text()
    assert "clipped" not in told
    assert told.count("x" * 3000) == 30
    assert " -" not in "".join(line for line in told.splitlines(keepends=True) if " DONE " in line)

    assert "CACHED" in _said(wrong, *words)
    assert len(wrong.records()) == 4


def test_a_clock_that_was_ahead_for_a_while_leaves_store_and_history_in_order(
    wrong: Wrong, tmp_path: Path
) -> None:
    first = context(tmp_path, "first", "FROM busybox\nRUN echo first > /file\n")
    second = context(tmp_path, "second", "FROM busybox\nRUN echo second > /file\n")
    wrong.set(9)
    wrong("build", "--progress", "quiet", first)
    wrong.set(-9)
    wrong("build", "--progress", "quiet", second)
    wrong.set(0)
    assert len(wrong.records()) == 2
    for record in wrong.records():
        assert str(record["completed_at"]) >= str(record["created_at"])
        wrong("history", "inspect", str(record["ref"]).rpartition("/")[2])
    usage = wrong("du", "--verbose")
    ages = [line for line in usage.splitlines() if line.startswith("Last used:")]
    assert ages
    assert not any("-" in line for line in ages)
    # What was used by a clock that was ahead is not older than a day, nor is the other.
    wrong("prune", "--force", "--all", "--filter", "until=24h")
    assert "CACHED" in _said(wrong, *PLAIN, first)
    assert "CACHED" in _said(wrong, *PLAIN, second)
    wrong("prune", "--force", "--all")
    assert "CACHED" not in _said(wrong, *PLAIN, second)


def test_a_build_shows_right_times_of_a_daemon_whose_clock_is_wrong(wrong: Wrong, tmp_path: Path) -> None:
    wrong.set(30)
    began = time.monotonic()
    said = _said(wrong, *PLAIN, context(tmp_path, "c", "FROM busybox\nRUN sleep 0.3; echo slept\n"))
    took = time.monotonic() - began
    seconds = [float(line.split()[2].rstrip("s")) for line in said.splitlines() if " DONE " in line]
    assert seconds
    assert all(0 <= second <= took for second in seconds)


def _said(wrong: Wrong, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "anyarch", *words],
        env=wrong.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr
