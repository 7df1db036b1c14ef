"""A daemon that is killed among builds or started twice: what is left of it, and what it says."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from anyarch.testing.socket_daemon import SocketDaemon
from tests.conftest import run_anyarch
from tests.reliability.processes import leftovers, mounts_below

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Bases
    from tests.reliability.processes import Family

pytestmark = [pytest.mark.root, pytest.mark.registry]

BUILDS = 8
_PATIENCE_S = 60.0


def builder(directory: Path, bases: Bases, daemon: SocketDaemon) -> dict[str, str]:
    """The environment of a client whose builder is the daemon."""
    environment = {
        **bases.environment,
        "ANYARCH_ROOT": str(directory / "client"),
        "BUILDX_CONFIG": str(directory / "buildx"),
    }
    run_anyarch(
        "create", "--use", "--name", "d", "--driver", "remote", daemon.endpoint, environment=environment
    )
    return environment


def cgroups() -> set[str]:
    return {
        os.path.join(directory, name)
        for directory, names, _ in os.walk("/sys/fs/cgroup")
        for name in names
        if name.startswith("anyarch-")
    }


def test_a_daemon_killed_among_builds_starts_again_and_leaves_nothing(
    bases: Bases, processes: Family, tmp_path: Path
) -> None:
    before = cgroups()
    program = [sys.executable, "-c", "import sys; from anyarch.daemon.main import main; sys.exit(main())"]
    for number in range(BUILDS):
        context = tmp_path / f"c{number}"
        context.mkdir()
        (context / "data").write_bytes(os.urandom(1 << 20))
        run = (
            "RUN echo begun; b=0; while test $b -lt 600; do sleep 0.1; b=$((b+1)); test -e /go && break; done"
        )
        (context / "Dockerfile").write_text(f"FROM busybox\nCOPY data /\n{run}; cp /data /{number}\n")
    daemon = SocketDaemon(tmp_path / "d", argv=program, environment=bases.environment)
    environment = builder(tmp_path, bases, daemon)

    def command(number: int, *more: str) -> list[str]:
        words = ["build", "--progress", "plain", "--memory", "512m"]
        return [*words, "-o", "type=cacheonly", *more, str(tmp_path / f"c{number}")]

    running = []
    try:
        for number in range(BUILDS):
            log = (tmp_path / f"log{number}").open("wb")
            with log:
                process = processes.start(
                    *command(number), environment=environment, stdout=log, stderr=subprocess.STDOUT
                )
            running.append(process)
        deadline = time.monotonic() + _PATIENCE_S
        while not all(b"begun" in log.read_bytes().split(b"RUN echo begun")[-1] for log in logs(tmp_path)):
            assert time.monotonic() < deadline, [log.read_text() for log in logs(tmp_path)]
            time.sleep(0.05)
        assert cgroups() > before
        daemon.process.kill()
        daemon.process.wait()
        for process in running:
            assert process.wait(_PATIENCE_S) != 0  # told, not left waiting
        for log in logs(tmp_path):
            assert b"Traceback" not in log.read_bytes()
    finally:
        for process in running:
            process.kill()
        daemon.close()
    assert processes.remaining() == {}
    assert mounts_below(tmp_path) == []
    daemon = SocketDaemon(tmp_path / "d", argv=program, environment=bases.environment)
    with daemon:
        for number in range(BUILDS):
            dockerfile = tmp_path / f"c{number}" / "Dockerfile"
            dockerfile.write_text(dockerfile.read_text().replace("test $b -lt 600", "test $b -lt 1"))
            run_anyarch(*command(number), environment=environment)
    root = tmp_path / "d" / "root"
    assert leftovers(root) == []
    assert processes.remaining() == {}
    assert mounts_below(tmp_path) == []
    assert cgroups() <= before
    run_anyarch("store", "check", environment={**environment, "ANYARCH_ROOT": str(root)})


def logs(directory: Path) -> list[Path]:
    return [directory / f"log{number}" for number in range(BUILDS)]


def test_a_second_daemon_of_a_root_is_refused_and_the_first_goes_on(bases: Bases, tmp_path: Path) -> None:
    with SocketDaemon(tmp_path / "d", environment=bases.environment) as first:
        argv = [sys.executable, "-c", "import sys; from anyarch.daemon.main import main; sys.exit(main())"]
        argv += ["--root", str(tmp_path / "d" / "root"), "--addr", f"unix://{tmp_path}/other.sock"]
        second = subprocess.run(
            argv, env=dict(bases.environment), capture_output=True, text=True, check=False
        )
        assert second.returncode == 1
        assert second.stderr == (
            f"anyarchd: could not lock {tmp_path}/d/root/buildkitd.lock, another instance running?\n"
            "  hint: end the other daemon, or give this one a --root of its own\n"
        )
        assert not (tmp_path / "other.sock").exists()
        (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY Dockerfile /\n")
        run_anyarch(
            *("build", "-o", f"{tmp_path}/out", str(tmp_path)),
            environment=builder(tmp_path, bases, first),
        )
        assert (tmp_path / "out" / "Dockerfile").exists()


def test_a_daemon_may_open_many_files_and_its_steps_as_many_as_before(bases: Bases, tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        daemon = SocketDaemon(tmp_path / "d", environment=bases.environment)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    with daemon:
        limit, _ = resource.prlimit(daemon.process.pid, resource.RLIMIT_NOFILE)
        assert limit == hard
        (tmp_path / "Dockerfile").write_text(
            "FROM busybox AS b\nRUN ulimit -n > /limit; ulimit -Hn >> /limit\n"
            "FROM scratch\nCOPY --from=b /limit /\n"
        )
        run_anyarch(
            *("build", "-o", f"{tmp_path}/out", str(tmp_path)),
            environment=builder(tmp_path, bases, daemon),
        )
        assert (tmp_path / "out" / "limit").read_text().split() == ["256", str(hard)]


def test_a_disk_that_fills_up_during_a_transfer_is_told_and_given_back(bases: Bases, tmp_path: Path) -> None:
    small = tmp_path / "d"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(small)], check=True)
    try:
        with SocketDaemon(small, environment=bases.environment) as daemon:
            environment = builder(tmp_path, bases, daemon)
            context = tmp_path / "c"
            context.mkdir()
            (context / "Dockerfile").write_text("FROM scratch\nCOPY data /\n")
            (context / "data").write_bytes(os.urandom(40 << 20))
            argv = [sys.executable, "-m", "anyarch", "build", "-o", "type=cacheonly", str(context)]
            done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
            assert done.returncode == 1
            assert "no space left on device" in done.stderr
            assert "Traceback" not in done.stderr + daemon.log
            (context / "data").write_bytes(b"little")
            subprocess.run(argv, env=environment, capture_output=True, check=True)
        used = os.statvfs(small)
        assert (used.f_blocks - used.f_bfree) * used.f_frsize < 4 << 20
    finally:
        subprocess.run(["umount", str(small)], check=True)
