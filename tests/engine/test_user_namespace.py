"""Root of a user namespace that is not the machine's, as in rootless containers: uid 0, not all of root."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tests.conftest import Bases

pytestmark = pytest.mark.root

# A child that is root of a namespace with these ids, and runs the rest of the arguments.
_ENTER = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
unshared, mapped = os.pipe(), os.pipe()
pid = os.fork()
if pid == 0:
    assert libc.unshare(0x10020000) == 0  # CLONE_NEWUSER, CLONE_NEWNS
    os.write(unshared[1], b"x")
    os.read(mapped[0], 1)
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    assert libc.mount(b"none", b"/", None, 0x44000, None) == 0  # MS_REC, MS_PRIVATE
    os.execv(sys.argv[2], sys.argv[2:])
os.read(unshared[0], 1)
for name in ("uid_map", "gid_map"):
    with open(f"/proc/{pid}/{name}", "w") as file:
        file.write(sys.argv[1])
os.write(mapped[1], b"x")
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
_RANGE, _SINGLE = "0 0 65536", "0 0 1"


class Namespace:
    """Builds of a command line in a namespace with these ids."""

    def __init__(self, directory: Path, environment: Mapping[str, str]) -> None:
        self.directory = directory
        self._environment = {**environment, "ANYARCH_ROOT": str(directory / "store")}

    def build(self, dockerfile: str, *arguments: str, ids: str = _RANGE) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-c", _ENTER, ids, sys.executable, "-m", "anyarch", "build"]
        argv += ["--progress=plain", f"--output=type=local,dest={self.directory}/out", *arguments, "-"]
        return subprocess.run(
            argv, env=self._environment, input=dockerfile, capture_output=True, text=True, check=False
        )


@pytest.fixture
def namespace(tmp_path: Path, bases: Bases) -> Namespace:
    return Namespace(tmp_path, bases.environment)


@pytest.mark.emulation
@pytest.mark.parametrize("platform", ["linux/amd64", "linux/arm64"])
def test_directories_are_removed_renamed_and_replaced(namespace: Namespace, platform: str) -> None:
    """What an overlay has to mark by attributes; the machine's root marks it by others."""
    done = namespace.build(
        "FROM busybox\nRUN mkdir -p /d/sub && touch /d/f && chown 33:44 /d/f\n"
        "RUN set -e; rm -rf /d; mkdir /d; touch /d/new; mv /d /e; mkdir /d; mkdir /e/f; chown 33:44 /e/f\n"
        "RUN set -e; test -z \"$(ls /d)\"; test -e /e/new; rmdir /d; stat -c %u:%g /e/f > /e/new\n",
        f"--platform={platform}",
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    out = namespace.directory / "out"
    assert not (out / "d").exists()
    assert sorted(path.name for path in (out / "e").iterdir()) == ["f", "new"]
    assert (out / "e/new").read_text() == "33:44\n"


def test_single_id_is_enough_for_steps_that_change_no_owners(namespace: Namespace) -> None:
    done = namespace.build("FROM busybox\nRUN rm -rf /home && mkdir /home && id -u > /id\n", ids=_SINGLE)

    assert done.returncode == 0, done.stderr
    assert (namespace.directory / "out/id").read_text() == "0\n"


def test_device_nodes_that_are_missed_are_explained(namespace: Namespace) -> None:
    done = namespace.build("FROM busybox\nRUN mknod /x c 1 3\n")

    assert done.returncode == 1
    assert "hint: the kernel makes no device nodes" in done.stderr


def test_store_may_be_used_by_the_machines_root_afterwards(namespace: Namespace, bases: Bases) -> None:
    text = "FROM busybox\nRUN rm -rf /home && mkdir /home\n"
    assert namespace.build(text).returncode == 0

    argv = [sys.executable, "-m", "anyarch", "build", "--progress=plain"]
    argv += [f"--output=type=local,dest={namespace.directory}/again", "-"]
    environment = {**bases.environment, "ANYARCH_ROOT": str(namespace.directory / "store")}
    done = subprocess.run(
        argv, env=environment, input=f"{text}RUN touch /home/x\n", capture_output=True, text=True, check=True
    )
    assert "CACHED" in done.stderr
    assert [path.name for path in (namespace.directory / "again/home").iterdir()] == ["x"]
