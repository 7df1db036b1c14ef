"""Collection beside builds: processes that build, export and prune one store at once, a collection that is
killed, and cache mounts that processes share."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import textwrap
import threading
import time
from typing import TYPE_CHECKING

import pytest

from anyarch.store.store import Store
from tests.conftest import run_anyarch
from tests.reliability.processes import leftovers

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tests.conftest import Bases
    from tests.reliability.processes import Family

KILLS = 8


def write_context(directory: Path, number: int) -> Path:
    """A context whose Dockerfile shares some layers with those of other numbers and has some of its own."""
    directory.mkdir(parents=True, exist_ok=True)
    for name in ("shared", f"own{number}"):
        (directory / name).mkdir(exist_ok=True)
        for position in range(20):
            (directory / name / str(position)).write_text(f"{name} {position}\n" * 200)
    (directory / "Dockerfile").write_text(
        f"FROM scratch AS one\nCOPY shared /shared\nFROM scratch AS two\nCOPY own{number} /own\n"
        "FROM one\nCOPY --from=two /own /two\n"
    )
    return directory


def check(store: Path) -> None:
    with Store.open(store) as opened:
        assert opened.verify() == []
    assert leftovers(store) == []


class Worker(threading.Thread):
    """Runs command lines one after the other until told to stop; keeps what went wrong."""

    def __init__(
        self, environment: Mapping[str, str], directory: Path, seed: int, stop: threading.Event
    ) -> None:
        super().__init__()
        self._environment = dict(environment)
        self._directory = directory
        self._chance = random.Random(seed)
        self._stop_now = stop
        self.done: dict[str, int] = {}
        self.failures: list[str] = []

    def run(self) -> None:
        while not self._stop_now.is_set() and not self.failures:
            name, *arguments = self._chance.choice(
                [
                    self._build("oci"),
                    self._build("oci"),
                    self._build("local"),
                    self._build("cacheonly"),
                    self._build("cacheonly", "to"),
                    self._build("local", "from"),
                    self._build("cacheonly", "from", "to"),
                    self._prune(),
                ]
            )
            done = subprocess.run(
                [sys.executable, "-m", "anyarch", *arguments],
                env=self._environment,
                capture_output=True,
                text=True,
                stdin=subprocess.DEVNULL,
                check=False,
            )
            self.done[name] = self.done.get(name, 0) + 1
            if done.returncode:
                self.failures.append(f"{arguments}: status {done.returncode}\n{done.stderr}")

    def _build(self, kind: str, *caches: str) -> list[str]:
        """`caches`: a build cache that all share is read (from), written (to)."""
        context = write_context(self._directory / "contexts" / str(self.ident), self._chance.randrange(4))
        out = self._directory / f"out-{self.ident}-{kind}"
        output = {
            "oci": f"type=oci,tar=false,dest={out}",
            "local": f"type=local,dest={out}",
            "cacheonly": "type=cacheonly",
        }[kind]
        cache = self._directory / "cache"
        options = {
            "from": ["--cache-from", f"type=local,src={cache}"],
            "to": ["--cache-to", f"type=local,dest={cache},mode=max"],
        }
        given = [word for name in caches for word in options[name]]
        name = " ".join(("build", kind, *caches))
        return [name, "build", "--progress=quiet", "--output", output, *given, str(context)]

    def _prune(self) -> list[str]:
        limits = [
            ["--all"],
            [],
            ["--max-used-space", "100kb"],
            ["--filter", "until=1s"],
            ["--filter", "type=regular", "--all"],
        ]
        return ["prune", "prune", "--force", *self._chance.choice(limits)]


def build_and_prune(environment: Mapping[str, str], directory: Path, seconds: float) -> dict[str, int]:
    """Two processes at a time on one store for that long; how often each did what."""
    store = directory / "store"
    stop = threading.Event()
    environment = {**environment, "ANYARCH_ROOT": str(store)}
    workers = [Worker(environment, directory, seed, stop) for seed in (1, 2)]
    for worker in workers:
        worker.start()
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not any(worker.failures for worker in workers):
        time.sleep(0.2)
    stop.set()
    for worker in workers:
        worker.join()
    assert [worker.failures for worker in workers] == [[], []]
    check(store)
    return {name: sum(worker.done.get(name, 0) for worker in workers) for name in workers[0].done}


def test_building_exporting_and_pruning_at_once(clean_environment: Mapping[str, str], tmp_path: Path) -> None:
    build_and_prune(clean_environment, tmp_path, 8)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_building_exporting_and_pruning_at_once_for_ten_minutes(
    clean_environment: Mapping[str, str], tmp_path: Path
) -> None:
    done = build_and_prune(clean_environment, tmp_path, 600)
    assert min(done.values()) > 1


def test_a_collection_killed_at_any_moment_leaves_a_store_that_works(
    clean_environment: Mapping[str, str], processes: Family, tmp_path: Path
) -> None:
    environment = {**clean_environment, "ANYARCH_ROOT": str(tmp_path / "store")}
    build = ("build", "--progress=quiet", "--output", f"type=oci,tar=false,dest={tmp_path / 'out'}")
    chance = random.Random(7)
    took = 0.0
    for number in range(KILLS):
        for other in range(2):
            context = write_context(tmp_path / f"context{other}", other)
            run_anyarch(*build, str(context), environment=environment)
        started = time.monotonic()
        process = processes.start("prune", "--all", "--force", environment=environment)
        if number:  # the first one tells how long it takes
            time.sleep(took * chance.uniform(0.3, 1.0))
            process.kill()
        process.communicate()
        if not number:
            took = time.monotonic() - started
            assert process.returncode == 0
        run_anyarch(*build, str(write_context(tmp_path / "context0", 0)), environment=environment)
        check(tmp_path / "store")


# cache mounts ---------------------------------------------------------------------------------------------

HOLDER = """
import sys, time
from pathlib import Path
from anyarch.llb.ops import CacheOpt, CacheSharing
from anyarch.worker.cache_mounts import cache_mount
root, sharing, name = Path(sys.argv[1]), CacheSharing[sys.argv[2]], sys.argv[3]
with cache_mount(root, CacheOpt("id", sharing)) as directory:
    log = Path(directory) / "log"
    with log.open("a") as file:
        file.write(f"begin {name}\\n")
    print(directory, flush=True)
    sys.stdin.readline()
    with log.open("a") as file:
        file.write(f"end {name}\\n")
"""


class Holder:
    """A process that holds a cache mount until it is told to let go."""

    def __init__(self, root: Path, sharing: str, name: str) -> None:
        argv = [sys.executable, "-c", textwrap.dedent(HOLDER), str(root), sharing, name]
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def directory(self) -> str:
        """Waits until it has one."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def may_go(self) -> None:
        """Lets go of it as soon as it has one."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def let_go(self) -> None:
        """Waits until it has had one and let go."""
        self.may_go()
        self.process.communicate(timeout=120)
        assert self.process.returncode == 0


def test_processes_share_a_cache_mount(tmp_path: Path) -> None:
    first, second = (Holder(tmp_path, "SHARED", name) for name in "ab")
    assert first.directory() == second.directory()
    first.let_go()
    second.let_go()


def test_a_private_cache_mount_is_of_one_process_at_a_time(tmp_path: Path) -> None:
    first = Holder(tmp_path, "PRIVATE", "a")
    one = first.directory()
    second = Holder(tmp_path, "PRIVATE", "b")
    assert second.directory() != one
    first.let_go()
    third = Holder(tmp_path, "PRIVATE", "c")
    assert third.directory() == one  # it is used again
    second.let_go()
    third.let_go()


def test_a_locked_cache_mount_is_waited_for(tmp_path: Path) -> None:
    first = Holder(tmp_path, "LOCKED", "a")
    directory = first.directory()
    others = [Holder(tmp_path, "LOCKED", name) for name in "bc"]
    first.let_go()
    for other in others:  # whichever gets it first
        other.may_go()
    for other in others:
        other.process.communicate(timeout=120)
        assert other.process.returncode == 0
    lines = (tmp_path / "cache-mounts" / os.path.basename(directory) / "log").read_text().splitlines()
    assert len(lines) == 6
    for begin, end in zip(lines[::2], lines[1::2], strict=True):
        assert begin.replace("begin", "end") == end


@pytest.mark.root
def test_pruning_leaves_a_cache_mount_that_a_step_uses(
    bases: Bases, processes: Family, tmp_path: Path
) -> None:
    environment = {**bases.environment, "ANYARCH_ROOT": str(tmp_path / "store")}
    (tmp_path / "Dockerfile").write_text(
        "FROM busybox\n"
        "RUN --mount=type=cache,target=/c echo begun > /c/f; echo $((20 + 22)); sleep 3; cat /c/f\n"
    )
    process = processes.start(
        *("build", "--progress=plain", "--no-cache", "--output=type=cacheonly", str(tmp_path)),
        environment=environment,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if " 42" in line:
            break
    run_anyarch("prune", "--all", "--force", environment=environment)
    rest = process.stderr.read()
    assert process.wait() == 0, rest
    assert " begun" in rest
    run_anyarch("prune", "--all", "--force", "--filter", "type=exec.cachemount", environment=environment)
    assert [path for path in (tmp_path / "store/cache-mounts").iterdir() if path.is_dir()] == []
