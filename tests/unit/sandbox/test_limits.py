"""Limits of a step: processes by its pid namespace, the rest by control groups."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from anyarch.errors import SandboxError
from anyarch.sandbox.plan import Resources
from anyarch.sandbox.resources import cgroup_directory, pids_setting, settings_of
from anyarch.sandbox.supervisor import cgroups, limits
from anyarch.sandbox.supervisor.report import Refused

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.unit.sandbox.conftest import Steps

SUPERVISOR = Path(limits.__file__).parent
MEMORY = Path("/sys/fs/cgroup/memory")
has_version_1 = pytest.mark.skipif(
    not (MEMORY / "cgroup.procs").exists(), reason="this machine has no control groups of version 1"
)


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """No control group of a step outlives it."""
    before = set(Path("/sys/fs/cgroup").rglob("anyarch-*"))
    yield
    assert set(Path("/sys/fs/cgroup").rglob("anyarch-*")) <= before


@pytest.mark.parametrize(
    ("release", "has"),
    [("6.14.0", True), ("7.0-rc1", True), ("6.13.12-amd64", False), ("5.10", False), ("odd", False)],
)
def test_pid_max_is_written_only_where_it_belongs_to_the_namespace(
    release: str, has: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.uname", lambda: os.uname_result(("Linux", "h", release, "v", "x86_64")))
    assert limits.has_own_pid_max() is has


@pytest.mark.root
@pytest.mark.skipif(not limits.has_own_pid_max(), reason="before Linux 6.14 there is one pid_max for all")
def test_step_of_root_and_of_an_ordinary_user_has_a_bound_of_its_own(steps: Steps) -> None:
    assert steps.run("cat", "/proc/sys/kernel/pid_max", pids=400) == 0
    assert steps.out == b"400\n"

    # Not the machine's: a new pid namespace begins with the kernel's own maximum.
    assert steps.run("cat", "/proc/sys/kernel/pid_max", pids=0) == 0
    unbounded = steps.out.decode()
    fresh = ["unshare", "--fork", "--pid", "--mount-proc", "cat", "/proc/sys/kernel/pid_max"]
    assert unbounded == subprocess.run(fresh, capture_output=True, text=True, check=True).stdout


# the forms of limits


def test_limits_have_the_forms_of_runc_in_both_versions() -> None:
    found = settings_of(
        Resources(
            memory=64 << 20,
            memory_swap=96 << 20,
            cpu_shares=1024,
            cpu_quota=50_000,
            cpuset_cpus="0-1",
            cpuset_mems="0",
        )
    )

    assert [(name, first, second) for _, _, name, first, *_, second in found] == [
        ("memory.limit_in_bytes", "67108864", "67108864"),
        ("memory.memsw.limit_in_bytes", "100663296", "33554432"),
        ("cpu.shares", "1024", "39"),
        ("cpu.cfs_quota_us", "50000", "50000 100000"),
        ("cpuset.cpus", "0-1", "0-1"),
        ("cpuset.mems", "0", "0"),
    ]


@pytest.mark.parametrize(("shares", "weight"), [(1, 1), (2, 1), (262144, 10000), (999999, 10000)])
def test_cpu_shares_become_a_weight(shares: int, weight: int) -> None:
    assert settings_of(Resources(cpu_shares=shares))[0][5] == str(weight)


def test_swap_below_memory_and_swap_alone_are_refused() -> None:
    with pytest.raises(SandboxError, match="smaller than that of memory"):
        settings_of(Resources(memory=2 << 20, memory_swap=1 << 20))
    with pytest.raises(SandboxError, match="needs one of memory"):
        settings_of(Resources(memory_swap=1 << 20))
    assert settings_of(Resources(memory=1 << 20, memory_swap=-1))[1][3:] == ("-1", "memory.swap.max", "max")


@pytest.mark.parametrize(
    ("parent", "directory"),
    [
        ("", ""),
        ("/", ""),
        ("ci", "/ci"),
        ("//ci/../../x/", "/x"),
        ("a-b.slice", "/a-b.slice"),
        ("a-b-c.slice:", "/a.slice/a-b.slice/a-b-c.slice"),
    ],
)
def test_parent_stays_below_the_root(parent: str, directory: str) -> None:
    assert cgroup_directory(parent) == directory


# control groups of version 1, for real


@pytest.mark.root
@has_version_1
def test_memory_limit_ends_what_exceeds_it_and_tells(root_steps: Steps) -> None:
    notes: list[tuple[str, str]] = []
    request = root_steps.request(
        *("sh", "-c", "head -c 100000000 /dev/zero | tail -c 90000000 >/dev/null; echo $?"),
        resources=Resources(memory=16 << 20),
    )
    out = bytearray()
    code = root_steps.executor.run(
        request,
        on_output=lambda _, data: out.extend(data),
        on_note=lambda kind, text: notes.append((kind, text)),
    )

    assert code == 0
    assert b"137" in out
    assert notes == [("out of memory", "")]


@pytest.mark.root
@has_version_1
def test_limits_are_in_force_while_the_step_runs_below_the_parent(root_steps: Steps) -> None:
    name = f"anyarch.test.{os.getpid()}"
    read, write = os.pipe()
    seen: dict[str, str] = {}

    def look(_stream: int, _data: bytes) -> None:
        for path in Path("/sys/fs/cgroup").glob(f"*/{name}/anyarch-*"):
            for file in path.iterdir():
                if file.name in ("memory.limit_in_bytes", "cpu.shares", "cpu.cfs_quota_us", "cpuset.cpus"):
                    seen[file.name] = file.read_text().strip()
        os.write(write, b"x\n")

    try:
        code = root_steps.executor.run(
            root_steps.request(
                *("sh", "-c", "echo ready; read line"),
                resources=Resources(memory=32 << 20, cpu_shares=512, cpu_quota=40_000, cpuset_cpus="0"),
                cgroup_parent=name,
                stdin=read,
            ),
            on_output=look,
        )
    finally:
        os.close(read)
        os.close(write)
        for path in Path("/sys/fs/cgroup").glob(f"*/{name}"):
            path.rmdir()
    assert code == 0
    assert seen == {
        "memory.limit_in_bytes": str(32 << 20),
        "cpu.shares": "512",
        "cpu.cfs_quota_us": "40000",
        "cpuset.cpus": "0",
    }


@pytest.mark.root
@has_version_1
def test_impossible_value_is_refused_with_its_name(root_steps: Steps) -> None:
    with pytest.raises(SandboxError, match=r"cpuset-cpus=4000-4001"):
        root_steps.run("true", resources=Resources(cpuset_cpus="4000-4001"))


@pytest.mark.root
@has_version_1
def test_processes_are_bounded_by_a_group_on_older_kernels() -> None:
    """In a process of its own, which the group holds."""
    code = (
        "import os, sys, signal; sys.path.insert(0, sys.argv[1])\n"
        "from supervisor.cgroups import Cgroups\n"
        "group = Cgroups().make(('', (('pids', 'pids', 'pids.max', '5', 'pids.max', '5'),)))\n"
        "made, children, pid = 0, [], os.fork()\n"
        "if pid: os.waitpid(pid, 0); group.remove(); print(group.paths, group.notes); os._exit(0)\n"
        "group.join()\n"
        "try:\n"
        "    for _ in range(20):\n"
        "        child = os.fork()\n"
        "        if child == 0: signal.pause()\n"
        "        children.append(child)\n"
        "except OSError as error: print(len(children), error.errno, flush=True)\n"
        "for child in children: os.kill(child, 9); os.waitpid(child, 0)\n"
        "os._exit(0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(SUPERVISOR.parent)], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[0] == f"4 {errno.EAGAIN}", done
    assert pids_setting(5)[2:4] == ("pids.max", "5")


# control groups of version 2, whose files are made here: a machine has either


class Unified:
    """A directory that looks like version 2; `refused` are controllers that its root does not hand down."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch, *, refused: tuple[str, ...] = ()) -> None:
        self.root = root
        self.made: list[Path] = []
        self._refused = refused
        (root / "cgroup.controllers").write_text("cpuset cpu memory pids\n")
        (root / "cgroup.subtree_control").write_text("pids\n")
        make = cgroups._make

        def make_group(path: str, *, last: bool) -> None:
            make(path, last=last)
            self._fill(Path(path))

        monkeypatch.setattr(cgroups, "_make", make_group)
        monkeypatch.setattr(cgroups, "_write", self._write)
        monkeypatch.setattr(cgroups, "_own_places", lambda: {"": "/user/session"})
        monkeypatch.setattr(cgroups, "_mounted", lambda: [("/", str(root), "cgroup2", ["rw"])])

    def _fill(self, path: Path) -> None:
        self.made.append(path)
        handed = (path.parent / "cgroup.subtree_control").read_text().split()
        for name in ("cgroup.subtree_control", "cgroup.procs"):
            (path / name).touch()
        for controller, files in {
            "memory": ("memory.max", "memory.swap.max", "memory.events"),
            "cpu": ("cpu.max", "cpu.weight"),
            "cpuset": ("cpuset.cpus", "cpuset.mems"),
            "pids": ("pids.max",),
        }.items():
            if controller in handed:
                for name in files:
                    (path / name).touch()

    def _write(self, path: str, text: str) -> None:
        if path.endswith("subtree_control"):
            if text[1:] in self._refused:
                raise OSError(errno.EBUSY, "busy")
            with open(path, "a") as file:
                file.write(f" {text[1:]}")
            return
        if not os.path.exists(path):
            raise OSError(errno.ENOENT, "no such file")
        Path(path).write_text(text)


def test_version_2_gets_its_controllers_handed_down_and_the_limits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Unified(tmp_path, monkeypatch)

    group = cgroups.Cgroups().make(("", settings_of(Resources(memory=1 << 20, cpu_quota=20_000))))

    assert group.notes == []
    (path,) = map(Path, group.paths)
    assert path.parent == tmp_path / "anyarch"
    assert (path / "memory.max").read_text() == str(1 << 20)
    assert (path / "cpu.max").read_text() == "20000 100000"
    assert "memory" in (tmp_path / "anyarch/cgroup.subtree_control").read_text()
    assert group.was_out_of_memory() is False
    (path / "memory.events").write_text("oom 1\noom_kill 2\n")
    assert group.was_out_of_memory() is True
    group.join()
    assert (path / "cgroup.procs").read_text() == "0"
    assert machine.made[-1] == path


def test_what_version_2_does_not_hand_down_is_told_and_the_rest_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Unified(tmp_path, monkeypatch, refused=("memory",))

    group = cgroups.Cgroups().make(("/ci", settings_of(Resources(memory=1 << 20, cpu_shares=1024))))

    assert group.notes == [f"memory: {tmp_path}/ci: device or resource busy"]
    assert (Path(group.paths[0]) / "cpu.weight").read_text() == "39"
    assert Path(group.paths[0]).parent == tmp_path / "ci"


def test_value_that_version_2_does_not_take_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Unified(tmp_path, monkeypatch)
    write = machine._write

    def refuse(path: str, text: str) -> None:
        if path.endswith("cpuset.cpus"):
            raise OSError(errno.EINVAL, "invalid")
        write(path, text)

    monkeypatch.setattr(cgroups, "_write", refuse)
    with pytest.raises(Refused) as caught:
        cgroups.Cgroups().make(("", settings_of(Resources(cpuset_cpus="99"))))
    assert (caught.value.gate, caught.value.subject) == ("cgroup value", b"cpuset-cpus=99")


def test_machine_without_control_groups_fails_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroups, "_mounted", list)

    group = cgroups.Cgroups().make(("/x", (*settings_of(Resources(memory=1 << 20)), pids_setting(5))))

    assert group.paths == []
    assert group.notes == ["memory: this machine has no control group for memory"]


def test_part_of_a_hierarchy_that_a_container_sees_is_its_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        cgroups, "_mounted", lambda: [("/docker/1", "/sys/fs/cgroup/memory", "cgroup", ["rw", "memory"])]
    )
    monkeypatch.setattr(cgroups, "_own_places", lambda: {"memory": "/docker/1/build", "cpu": "/.."})

    assert cgroups.Hierarchies().mounts == {"memory": ("/sys/fs/cgroup/memory", "/build")}
