"""The same as an ordinary user: no capabilities, no further ids, nothing set up on the machine."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from anyarch.elf.tiny import tiny_executable

from .conftest import make_busybox_layer

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.root  # to become somebody else

_SOURCES = Path(__file__).parents[3] / "src"
_NOBODY = 65534
_PRELUDE = """
import json, os, sys
from anyarch.errors import SandboxError
from anyarch.sandbox.executor import Executor
from anyarch.sandbox.plan import *
here = sys.argv[1]
out = bytearray()
def root(name, *lowers):
    for part in ("upper", "work"):
        os.makedirs(f"{here}/{name}/{part}")
    return RootFS(lowers or (here + "/base",), f"{here}/{name}/upper", f"{here}/{name}/work")
def sh(script, **fields):
    fields.setdefault("root", root(str(len(os.listdir(here)))))
    request = ExecRequest(("sh", "-c", script), env=("PATH=/bin",), **fields)
    out.clear()
    return executor.run(request, on_output=lambda stream, data: out.extend(data))
result = {}
with Executor(here + "/state") as executor:
"""


@pytest.fixture
def home() -> Iterator[Path]:
    """A directory that belongs to nobody, with a busybox layer."""
    directory = Path(tempfile.mkdtemp(prefix="anyarch-user-"))
    make_busybox_layer(directory / "base")
    for parent, directories, files in os.walk(directory):
        for name in (parent, *(os.path.join(parent, name) for name in (*directories, *files))):
            os.chown(name, _NOBODY, _NOBODY, follow_symlinks=False)
    yield directory
    shutil.rmtree(directory)


def is_open_to_all(path: Path) -> bool:
    return all(parent.stat().st_mode & 0o001 for parent in (path, *path.parents))


def as_nobody(home: Path, body: str) -> dict[str, Any]:
    """What `body`, run by nobody, puts into `result`.

    The interpreter and our sources may lie in a directory that only root may enter. Then they are bound to
    places in `home`, in a mount namespace of the child.
    """
    script = _PRELUDE + "".join(f"    {line}\n" for line in body.strip().splitlines())
    binds: list[str] = []

    def reachable(path: Path) -> Path:
        if is_open_to_all(path):
            return path
        place = home / f"bound-{len(binds)}"
        place.mkdir(exist_ok=True)
        binds.append(f"mount --bind {path} {place}")
        return place

    prefix = Path(sys.base_prefix).resolve()
    python = reachable(prefix) / Path(sys.executable).resolve().relative_to(prefix)
    packages = [Path(entry) for entry in sys.path if entry.endswith("site-packages")]
    path = os.pathsep.join(str(reachable(entry)) for entry in (_SOURCES, *packages))
    is_open = os.stat("/dev/net/tun").st_mode & 0o006  # as udev leaves it; not every machine has udev
    if not is_open and not (home / "tun").exists():
        os.mknod(home / "tun", 0o666 | stat.S_IFCHR, os.stat("/dev/net/tun").st_rdev)
        os.chmod(home / "tun", 0o666)
    if not is_open:
        binds.append(f"mount --bind {home / 'tun'} /dev/net/tun")
    nobody = f"setpriv --reuid {_NOBODY} --regid {_NOBODY} --clear-groups"
    done = subprocess.run(
        [
            *("unshare", "--mount", "sh", "-ec", "; ".join([*binds, f'exec {nobody} "$@"']), "sh"),
            *(str(python), "-c", script + "print(json.dumps(result))", str(home)),
        ],
        env={"PYTHONPATH": path, "PATH": os.environ["PATH"]},
        cwd="/",
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_step_runs_as_root_of_its_own_and_writes_as_the_user(home: Path) -> None:
    found = as_nobody(
        home,
        """
work = root("r")
result["code"] = sh("id -u; echo x >/file; rm /bin/nc; ls /dev/null /proc/self/exe /sys/kernel", root=work)
result["out"] = out.decode()
result["ids"], result["overlay"] = executor.ids, executor.overlay
""",
    )

    assert found["code"] == 0, found
    assert found["out"].startswith("0\n")
    assert (found["ids"], found["overlay"]) == ("single", "user")
    assert (home / "r/upper/file").stat().st_uid == _NOBODY
    assert (home / "r/upper/bin/nc").is_char_device()


def test_foreign_program_runs_without_any_registration_on_the_host(home: Path) -> None:
    (home / "base" / "foreign").write_bytes(tiny_executable("arm64", 33))
    (home / "base" / "foreign").chmod(0o755)

    found = as_nobody(
        home,
        """
from anyarch.emulation import Host, plan
from anyarch.spec.platform import Platform
route = plan(Platform.parse("linux/arm64"), Host(executor=executor), is_root=False)
result["kind"] = route.kind
result["code"] = sh("/foreign", emulators=route.emulators)
""",
    )

    assert found == {"kind": "private", "code": 33}


def test_directories_that_a_step_closed_to_its_user_can_be_removed(home: Path) -> None:
    found = as_nobody(
        home,
        """
work = root("r")
sh("mkdir -p /a/b; touch /a/b/c; chmod 0 /a/b /a", root=work)
result["out"] = executor.run_in_userns(["/bin/busybox", "find", work.upper]).decode()
executor.run_in_userns(["/bin/busybox", "rm", "-r", os.path.dirname(work.upper)])
result["left"] = os.path.exists(here + "/r")
""",
    )

    assert found["out"].count("\n") == 4
    assert found["left"] is False


def test_refused_user_namespace_is_named(home: Path) -> None:
    """Inside a user namespace whose limit of further ones is 0."""
    found = as_nobody(
        home,
        """
def inner():
    import ctypes
    libc = ctypes.CDLL(None)
    uid, gid = os.getuid(), os.getgid()
    assert libc.unshare(0x10000000) == 0
    open("/proc/self/setgroups", "w").write("deny")
    open("/proc/self/uid_map", "w").write(f"{uid} {uid} 1")
    open("/proc/self/gid_map", "w").write(f"{gid} {gid} 1")
    open("/proc/sys/user/max_user_namespaces", "w").write("0")
    with Executor(here + "/inner") as executor:
        try:
            executor.ids
        except SandboxError as error:
            return error.message, error.hint
read, write = os.pipe()
if os.fork() == 0:
    os.write(write, json.dumps(inner()).encode())
    os._exit(0)
os.wait()
result["message"], result["hint"] = json.loads(os.read(read, 4096))
""",
    )

    assert "CLONE_NEWUSER" in found["message"]
    assert "user.max_user_namespaces" in found["hint"]
