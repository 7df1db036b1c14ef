"""Root file systems and executors for the sandbox's tests."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import msgspec
import pytest

from anyarch.sandbox.executor import Executor
from anyarch.sandbox.plan import ExecRequest, RootFS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BUSYBOX = "/bin/busybox"  # Debian's busybox-static
APPLETS = [
    "sh",
    "ls",
    "cat",
    "id",
    "mount",
    "umount",
    "true",
    "false",
    "ps",
    "sleep",
    "echo",
    "mkdir",
    "rm",
    "mv",
    "touch",
    "stat",
    "hostname",
    "ip",
    "mknod",
    "dd",
    "env",
]
APPLETS += [
    "readlink",
    "chmod",
    "chown",
    "ln",
    "ulimit",
    "unshare",
    "yes",
    "seq",
    "tty",
    "test",
    "kill",
    "setsid",
    "wc",
    "grep",
    "find",
    "head",
    "su",
    "nc",
]


class Steps:
    """A store of layers in a directory, and an executor to run steps on them."""

    def __init__(self, directory: Path, executor: Executor) -> None:
        self.directory = directory
        self.executor = executor
        self.base = str(directory / "base")
        self.out = b""
        self.err = b""
        self._count = 0

    def root(self, *lowers: str) -> RootFS:
        """A fresh writable tree above these layers, or above the busybox layer."""
        self._count += 1
        upper = self.directory / f"work-{self._count}" / "upper"
        work = self.directory / f"work-{self._count}" / "work"
        upper.mkdir(parents=True)
        work.mkdir()
        return RootFS(lowers or (self.base,), str(upper), str(work))

    def request(self, *argv: str, **fields: object) -> ExecRequest:
        root = fields.pop("root", None) or self.root()
        assert isinstance(root, RootFS)
        return msgspec.structs.replace(ExecRequest(argv, root, env=("PATH=/bin",)), **fields)

    def run(self, *argv: str, **fields: object) -> int:
        """Run and keep the output in `out` and `err`."""
        streams = {1: bytearray(), 2: bytearray()}
        request = self.request(*argv, **fields)
        code = self.executor.run(request, on_output=lambda stream, data: streams[stream].extend(data))
        self.out, self.err = bytes(streams[1]), bytes(streams[2])
        return code

    def sh(self, script: str, **fields: object) -> str:
        """The output of a shell script that must succeed."""
        code = self.run("sh", "-ec", script, **fields)
        assert code == 0, (code, self.out, self.err)
        return self.out.decode()

    def layer(self, name: str) -> Path:
        path = self.directory / name
        path.mkdir()
        return path


def make_busybox_layer(directory: Path) -> None:
    (directory / "bin").mkdir(parents=True)
    (directory / "tmp").mkdir()
    shutil.copy(BUSYBOX, directory / "bin" / "busybox")
    for applet in APPLETS:
        (directory / "bin" / applet).symlink_to("busybox")


def tree_of(directory: str) -> list[str]:
    """All paths below a directory, relative, sorted."""
    found = []
    for parent, directories, files in os.walk(directory):
        found += [os.path.relpath(os.path.join(parent, name), directory) for name in (*directories, *files)]
    return sorted(found)


@pytest.fixture(scope="session")
def busybox_layer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("layers") / "busybox"
    make_busybox_layer(directory)
    return directory


def _steps(directory: Path, busybox_layer: Path, *, privileged: bool) -> Iterator[Steps]:
    with Executor(directory / "state", privileged=privileged) as executor:
        steps = Steps(directory, executor)
        steps.base = str(busybox_layer)
        yield steps
    assert os.listdir(directory / "state") == []


@pytest.fixture
def root_steps(tmp_path: Path, busybox_layer: Path) -> Iterator[Steps]:
    """Steps as root runs them: no user namespace."""
    yield from _steps(tmp_path, busybox_layer, privileged=True)


@pytest.fixture
def user_steps(tmp_path: Path, busybox_layer: Path) -> Iterator[Steps]:
    """Steps in the user namespace of an ordinary user."""
    yield from _steps(tmp_path, busybox_layer, privileged=False)


@pytest.fixture(params=["root", "user"])
def steps(request: pytest.FixtureRequest, tmp_path: Path, busybox_layer: Path) -> Iterator[Steps]:
    """Steps as root and in the user namespace of an ordinary user (with one id)."""
    yield from _steps(tmp_path, busybox_layer, privileged=request.param == "root")
