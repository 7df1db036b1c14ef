"""Steps that are cut short: nothing may be left of them, whoever was killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from anyarch.errors import Canceled, SandboxError
from anyarch.sandbox.executor import Executor
from anyarch.sandbox.plan import CancelToken, RootFS

from .processes import at_least, descendants, identity, mounts_below, wait_until_gone

if TYPE_CHECKING:
    from .conftest import Steps

pytestmark = pytest.mark.root

# The second sleeper has left its session, the third its parent.
_SLEEPERS = "sleep 1000 & setsid sleep 1000 & (sleep 1000 &) & echo ready; sleep 1000"
_SUPERVISOR = Path(__file__).parents[3] / "src" / "anyarch" / "sandbox" / "supervisor"


class Background:
    """A step that runs in a thread; `ready` is set by its first output."""

    def __init__(self, steps: Steps, *, cancel: threading.Event | CancelToken | None = None) -> None:
        self.ready = threading.Event()
        self.error: BaseException | None = None
        self.code: int | None = None
        request = steps.request("sh", "-c", _SLEEPERS)

        def run() -> None:
            try:
                self.code = steps.executor.run(
                    request, on_output=lambda _stream, _data: self.ready.set(), cancel=cancel
                )
            except BaseException as error:
                self.error = error

        self.thread = threading.Thread(target=run)
        self.thread.start()
        assert self.ready.wait(30)

    def join(self) -> BaseException | None:
        self.thread.join(30)
        assert not self.thread.is_alive()
        return self.error


def running(steps: Steps) -> set[tuple[int, str]]:
    """The processes of steps: below the supervisor, which is below its launcher."""
    launchers = [pid for pid, _ in _children(os.getpid()) if _is_launcher(pid)]
    assert len(launchers) == 1
    (supervisor,) = [pid for pid, _ in _children(launchers[0])]
    return {identity(pid) for pid in descendants(supervisor)}


def all_running(steps: Steps) -> set[tuple[int, str]]:
    """Once shell and sleepers have all started."""
    (launcher,) = [pid for pid, _ in _children(os.getpid()) if _is_launcher(pid)]
    (supervisor,) = [pid for pid, _ in _children(launcher)]
    found = at_least(4, supervisor)
    assert len(found) >= 4
    return found


def _children(pid: int) -> list[tuple[int, str]]:
    own = descendants(pid)
    below = {grandchild for child in own for grandchild in descendants(child)}
    return [(child, state) for child, state in own.items() if child not in below]


def _is_launcher(pid: int) -> bool:
    try:
        return b"supervisor.main" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False  # it has ended


@pytest.mark.parametrize("kind", [CancelToken, threading.Event])
def test_cancelled_step_ends_with_all_its_processes(
    steps: Steps, kind: type[CancelToken] | type[threading.Event]
) -> None:
    cancel = kind()
    background = Background(steps, cancel=cancel)
    processes = all_running(steps)

    if isinstance(cancel, CancelToken):
        cancel.cancel()
    else:
        cancel.set()

    assert isinstance(background.join(), Canceled)
    assert wait_until_gone(processes) == set()
    assert steps.run("true") == 0


def test_step_cancelled_before_it_starts_does_not_run(steps: Steps) -> None:
    token = CancelToken()
    token.cancel()

    with pytest.raises(Canceled):
        steps.executor.run(
            steps.request("sleep", "1000"), on_output=lambda _stream, _data: None, cancel=token
        )


def test_token_set_after_the_end_changes_nothing(steps: Steps) -> None:
    token = CancelToken()

    code = steps.executor.run(steps.request("true"), on_output=lambda _stream, _data: None, cancel=token)
    token.cancel()

    assert code == 0


def test_failing_consumer_of_output_stops_the_step(steps: Steps) -> None:
    def consume(_stream: int, _data: bytes) -> None:
        raise LookupError("consumer")

    with pytest.raises(LookupError, match="consumer"):
        steps.executor.run(steps.request("sh", "-c", _SLEEPERS), on_output=consume)
    assert wait_until_gone(running(steps)) == set()


def test_no_zombies_are_left_by_steps(steps: Steps) -> None:
    for _ in range(5):
        steps.sh("(true &); (sleep 0.01 &) ; true")
    assert [state for state in descendants(os.getpid()).values() if state == "Z"] == []


def test_closing_ends_running_steps(steps: Steps) -> None:
    background = Background(steps)
    processes = all_running(steps)

    steps.executor.close()

    assert isinstance(background.join(), SandboxError)
    assert wait_until_gone(processes) == set()
    with pytest.raises(SandboxError, match="closed"):
        steps.run("true")


def test_killed_supervisor_takes_its_steps_along_and_is_replaced(steps: Steps) -> None:
    background = Background(steps)
    processes = all_running(steps)
    (launcher,) = [pid for pid, _ in _children(os.getpid()) if _is_launcher(pid)]
    (supervisor,) = [pid for pid, _ in _children(launcher)]

    os.kill(supervisor, signal.SIGKILL)

    error = background.join()
    assert isinstance(error, SandboxError)
    assert "supervisor" in error.message
    assert wait_until_gone(processes) == set()
    assert steps.run("true") == 0


_PARENT = """
import os, sys
from anyarch.sandbox.executor import Executor
from anyarch.sandbox.plan import ExecRequest, RootFS
base, directory = sys.argv[1:3]
root = RootFS((base,), directory + "/upper", directory + "/work")
request = ExecRequest(("/bin/sh", "-c", sys.argv[3]), root, env=("PATH=/bin",))
executor = Executor(directory + "/state", privileged=sys.argv[4] == "root")
executor.run(request, on_output=lambda stream, data: os.write(1, data))
"""


@pytest.mark.parametrize("kind", ["root", "user"])
def test_killed_parent_leaves_no_process_and_no_mount(kind: str, tmp_path: Path, busybox_layer: Path) -> None:
    for name in ("upper", "work"):
        (tmp_path / name).mkdir()
    arguments = [str(busybox_layer), str(tmp_path), _SLEEPERS, kind]
    with subprocess.Popen([sys.executable, "-c", _PARENT, *arguments], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"ready\n"
        processes = at_least(6, parent.pid)  # launcher, supervisor and four sleepers (one was the shell)

        parent.kill()

    assert len(processes) >= 6
    assert wait_until_gone(processes) == set()
    assert mounts_below(tmp_path) == []
    (tmp_path / "state").rmdir()  # it was a mountpoint to the step only


_SHARING_PARENT = """
import os, subprocess, sys
from pathlib import Path
from anyarch.sandbox.executor import Executor
from anyarch.sandbox.plan import Bind, ExecRequest, RootFS
base, directory, kind = sys.argv[1:4]
seen = []
def on_output(stream, data):
    seen.append(data.decode())
    leaked = [line for line in open("/proc/self/mountinfo") if directory in line]
    assert len(leaked) == mounted, leaked
with Executor(directory + "/state", privileged=kind == "root") as executor:
    mounted = 0
    request = ExecRequest(("/bin/sh", "-c", "echo x"), RootFS((base,)), env=("PATH=/bin",))
    executor.run(request, on_output=on_output)
    later = Path(directory, "later")
    later.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", later], check=True)
    mounted = 1
    (later / "file").write_text("later")
    cat = ExecRequest(("/bin/cat", "/m/file"), RootFS((base,)), mounts=(Bind(str(later), "/m"),))
    executor.run(cat, on_output=on_output)
    subprocess.run(["umount", later], check=True)
print(*seen, sep="", end="")
"""


@pytest.mark.parametrize("kind", ["root", "user"])
def test_mounts_pass_from_the_host_to_steps_but_not_back(
    kind: str, tmp_path: Path, busybox_layer: Path
) -> None:
    """Where the host shares its mounts, as with systemd."""
    arguments = [sys.executable, "-c", _SHARING_PARENT, str(busybox_layer), str(tmp_path), kind]
    done = subprocess.run(
        ["unshare", "--mount", "--propagation", "shared", *arguments], capture_output=True, check=False
    )

    assert (done.returncode, done.stdout.decode(), done.stderr.decode()) == (0, "x\nlater", "")


def test_supervisor_loads_little_and_nothing_of_ours() -> None:
    """Its start is part of the first step."""
    script = (
        f"import sys;p=type(sys)('supervisor');p.__path__=[{str(_SUPERVISOR)!r}];sys.modules['supervisor']=p;"
        "import supervisor.main;print(*sorted(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-E", "-c", script], capture_output=True, check=True)

    loaded = set(done.stdout.decode().split())
    assert not loaded & {"anyarch", "enum", "logging", "re", "signal", "socket", "subprocess", "typing"}
    assert len([name for name in loaded if name.startswith("supervisor.")]) <= 9


def test_executor_that_ran_nothing_starts_nothing(tmp_path: Path) -> None:
    with Executor(tmp_path / "state"):
        assert not [pid for pid, _ in _children(os.getpid()) if _is_launcher(pid)]
    assert not (tmp_path / "state").exists()


def test_refused_step_leaves_the_next_one_alone(steps: Steps) -> None:
    with pytest.raises(SandboxError):
        steps.run("true", root=RootFS(("/nowhere",)))

    assert steps.run("true") == 0
