"""Steps that mean harm, or do it by mistake: contained, ended, and told of."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from anyarch.engine.request import BuildRequest, Secret
from anyarch.engine.solve import build_async
from anyarch.errors import ExecFailed
from anyarch.solver.events import LogEvent

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anyarch.solver.events import Event
    from anyarch.testing.builder import Builder

pytestmark = pytest.mark.root


def output(build: Builder, dockerfile: str, **request: object) -> str:
    """Build, and return what the steps wrote; a step that fails is no failure here."""
    events: list[Event] = []
    try:
        asyncio.run(
            build_async(
                BuildRequest(
                    context=str(build.context),
                    dockerfile_data=dockerfile.encode(),
                    platforms=("linux/amd64",),
                    root=str(build.store),
                    **request,  # type: ignore[arg-type]
                ),
                events.append,
            )
        )
    except ExecFailed as error:
        return _text(events) + f"\nexit code {error.status}"
    return _text(events)


def _text(events: list[Event]) -> str:
    return b"".join(event.data for event in events if isinstance(event, LogEvent)).decode("utf-8", "replace")


def processes_with(word: str) -> list[str]:
    """The command lines on this machine, zombies left out, that have `word` in them."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
            except OSError:
                continue
            if word in line:
                found.append(line)
    return found


@pytest.fixture
def few_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bound of a step, brought down to what a test may use up."""
    monkeypatch.setattr("anyarch.worker.worker._PIDS", 320)


def test_fork_bomb_is_bounded_and_ends_with_its_step(build: Builder, few_processes: None) -> None:
    told = output(
        build,
        "FROM busybox\n"
        "RUN (bomb() { sleep 98761 & bomb | bomb & }; bomb) 2>/tmp/err; sleep 1; "
        "ls -d /proc/[0-9]* | wc -l; grep -c fork /tmp/err\n",
    )

    assert processes_with("98761") == []
    counts = [int(word) for word in told.split() if word.isdecimal()]
    assert not counts or counts[0] <= 330, told


def test_too_many_processes_are_refused_not_the_step(build: Builder, few_processes: None) -> None:
    told = output(build, "FROM busybox\nRUN for i in $(seq 600); do sleep 98762 & done; echo all\n")

    assert "fork" in told
    assert processes_with("98762") == []


def test_next_step_has_its_processes_again(build: Builder, few_processes: None) -> None:
    told = output(
        build,
        "FROM busybox\n"
        "RUN for i in $(seq 250); do sleep 98763 & done; echo first\n"
        "RUN for i in $(seq 250); do sleep 98763 & done; echo second\n",
    )
    assert "first" in told
    assert "second" in told
    assert "fork" not in told


def test_machines_own_bound_is_not_touched(build: Builder, few_processes: None) -> None:
    before = Path("/proc/sys/kernel/pid_max").read_text()
    output(build, "FROM busybox\nRUN true\n")
    assert Path("/proc/sys/kernel/pid_max").read_text() == before


@pytest.mark.parametrize(
    "path",
    [
        "/proc/sys/kernel/core_pattern",
        "/proc/sys/kernel/pid_max",
        "/proc/sys/vm/drop_caches",
        "/proc/sysrq-trigger",
        "/sys/kernel/mm/transparent_hugepage/enabled",
    ],
)
def test_kernel_settings_cannot_be_written(build: Builder, path: str) -> None:
    told = output(build, f"FROM busybox\nRUN echo h > {path}; echo status $?\n")

    assert "status 1" in told or "exit code" in told, told
    assert "status 0" not in told


@pytest.mark.parametrize(
    "command",
    [
        "mount -t tmpfs none /mnt",
        "mount --bind /etc /mnt",
        "mount -o remount,rw /proc/sys",
        "umount /proc",
        "umount -l /proc/kcore",
        "mknod /tmp/disk b 254 0 && head -c 1 /tmp/disk",
        "ls /proc/1/root/boot /proc/2/root/boot /proc/self/root/../boot",
        "unshare -U true",
        "pivot_root / /tmp",
    ],
)
def test_mounts_devices_and_namespaces_are_refused(build: Builder, command: str) -> None:
    told = output(build, f"FROM busybox\nRUN {command}; echo status $?\n")

    assert "status" in told
    assert "status 0" not in told


@pytest.fixture
def victim() -> Iterator[subprocess.Popen[bytes]]:
    """A process of the machine's that a step may not reach."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
    yield process
    process.kill()
    process.wait()


def test_processes_of_the_machine_are_neither_seen_nor_reached(
    build: Builder, victim: subprocess.Popen[bytes]
) -> None:
    told = output(
        build,
        f"FROM busybox\nRUN ls -d /proc/[0-9]* | wc -l; kill -9 {victim.pid}; echo kill $?; "
        f"head -c 1 /proc/{victim.pid}/mem; echo mem $?\n",
    )

    assert int(told.split()[0]) < 10
    assert "kill 1" in told
    assert "mem 1" in told
    assert victim.poll() is None


def test_link_that_leads_out_is_followed_inside_of_the_step_only(build: Builder, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    up = "../" * 20
    output(
        build,
        f"FROM busybox\nRUN ln -s {up}{outside} /relative && ln -s {outside} /absolute\n"
        "RUN --mount=type=cache,target=/relative/cache echo 1 > /relative/cache/f\n"
        "RUN --mount=type=tmpfs,target=/absolute/tmp echo 1 > /absolute/tmp/f\n"
        "RUN echo 1 > /absolute/file; true\n"
        "WORKDIR /relative/work\n"
        "COPY --from=busybox /bin/busybox /absolute/copied\n",
    )
    assert list(outside.iterdir()) == []


def test_link_left_in_a_cache_does_not_lead_out(build: Builder, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "key").write_text("of the machine")
    mount = "--mount=type=cache,id=c,target=/c"

    told = output(
        build,
        f"FROM busybox\nRUN {mount} ln -s {secret} /c/link; ln -s {'../' * 20}{secret} /c/up\n"
        f"RUN {mount} cat /c/link/key /c/up/key; echo done\n",
    )
    assert "of the machine" not in told
    assert "done" in told


def test_step_inherits_no_descriptor(build: Builder) -> None:
    told = output(build, "FROM busybox\nRUN exec 9</dev/null; ls /proc/$$/fd /proc/1/fd; true\n")

    assert [word for word in told.split() if word.isdecimal()] == ["0", "1", "2", "9"]


def test_huge_output_comes_through_whole(build: Builder) -> None:
    size = 0

    def count(event: Event) -> None:
        nonlocal size
        if isinstance(event, LogEvent):
            size += len(event.data)

    asyncio.run(
        build_async(
            BuildRequest(
                context=str(build.context),
                dockerfile_data=b"FROM busybox\nRUN head -c 30000000 /dev/zero\n",
                platforms=("linux/amd64",),
                root=str(build.store),
            ),
            count,
        )
    )
    assert size == 30_000_000


def test_daemons_end_with_their_step_even_if_they_hold_its_output(build: Builder) -> None:
    began = time.monotonic()
    told = output(
        build,
        "FROM busybox\n"
        "RUN (setsid sleep 98764 &); nohup sleep 98764 & "
        "(trap '' HUP TERM INT; sleep 98764) & echo started\n",
    )

    assert "started" in told
    assert processes_with("98764") == []
    assert time.monotonic() - began < 60  # not 98764


def test_step_that_kills_its_init_fails_and_is_told(build: Builder) -> None:
    told = output(build, "FROM busybox\nRUN sh -c 'kill -9 1; kill -9 -1'; echo alive; exit 3\n")

    assert "exit code 3" in told or "exit code 137" in told


def test_filling_its_shared_memory_hurts_nobody(build: Builder) -> None:
    told = output(build, "FROM busybox\nRUN head -c 100000000 /dev/zero > /dev/shm/x; echo status $?\n")

    assert "status 1" in told


def test_secret_is_not_in_the_image_whatever_a_step_does_with_its_place(
    build: Builder, tmp_path: Path
) -> None:
    (tmp_path / "s").write_text("very secret")
    image = build(
        "FROM busybox\nRUN --mount=type=secret,id=s rm -f /run/secrets/s; mv /run/secrets/s /x; "
        "ln /run/secrets/s /y; true\n",
        secrets=(Secret("s", str(tmp_path / "s")),),
    )
    assert not any("very secret" in _content(path) for path in image.path("").rglob("*"))


def _content(path: Path) -> str:
    return path.read_text(errors="replace") if path.is_file() and not path.is_symlink() else ""


@pytest.mark.parametrize(
    "command",
    [
        "echo $$ > /sys/fs/cgroup/cgroup.procs",
        "mkdir /sys/fs/cgroup/mine",
        "mkdir /tmp/c; mount -t cgroup -o memory none /tmp/c",
        "mkdir /tmp/c; mount -t cgroup2 none /tmp/c",
        "echo 1 > /proc/1/oom_score_adj -1000",
        "echo '|/bin/sh' > /proc/sys/kernel/core_pattern",
        "cat /proc/1/environ | grep -q =",
        "cat /proc/kcore | head -c 1 | grep -q .",
        "ls /proc/self/map_files/ | grep -q python",
        "dd if=/dev/mem bs=1 count=1",
        "cat /sys/firmware/* | grep -q .",
        "echo b > /proc/sysrq-trigger",
        "reboot -f",
        "hostname other",
    ],
)
def test_ways_out_by_groups_memory_and_the_machine_are_shut(build: Builder, command: str) -> None:
    told = output(build, f"FROM busybox\nRUN {command}; echo status $?\n")

    assert "status" in told
    assert "status 0" not in told, told


def test_groups_of_the_machine_have_no_files_in_a_step(build: Builder) -> None:
    told = output(
        build, "FROM busybox\nRUN find /sys/fs/cgroup -name '*.procs' | wc -l; cat /proc/self/cgroup\n"
    )

    assert told.split()[0] == "0"
    assert {line.rpartition(":")[2] for line in told.splitlines()[1:]} == {"/"}


def test_step_has_no_terminal_to_type_into(build: Builder) -> None:
    """What TIOCSTI needs: a terminal that is not the step's own."""
    told = output(
        build, "FROM busybox\nRUN tty; : < /dev/tty; echo status $?; ls -l /proc/self/fd | grep -c tty\n"
    )

    assert "not a tty" in told
    assert "status 0" not in told
    assert told.split()[-1] == "0" or "exit code 1" in told


@pytest.mark.parametrize("network", ["none", "default"])
def test_step_without_network_reaches_nothing_of_the_machine(build: Builder, network: str) -> None:
    """Neither a port on loopback nor a socket that has no file."""
    import socket
    import threading

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        server.settimeout(5)

        def answer() -> None:
            with contextlib.suppress(TimeoutError):
                server.accept()[0].close()

        thread = threading.Thread(target=answer)
        thread.start()
        told = output(
            build,
            f"FROM busybox\nRUN --network={network} ip addr 2>/dev/null | grep -c 'inet 127.0.0.1'; "
            f"nc -w 2 127.0.0.1 {port} </dev/null; echo status $?; cat /proc/net/unix | grep -c @ || true\n",
        )
        thread.join()
    assert told.split()[0] == "1"  # loopback is there in any case
    if network == "none":
        assert "status 0" not in told
        assert told.split()[-1] == "0"
    else:
        assert "status 0" in told


def test_full_disk_of_a_step_is_its_own_failure(build: Builder) -> None:
    told = output(
        build,
        "FROM busybox\n"
        "RUN --mount=type=tmpfs,target=/t,size=1m head -c 5000000 /dev/zero > /t/x; echo status $?\n"
        "RUN echo next\n",
    )
    assert "status 1" in told
    assert "next" in told
