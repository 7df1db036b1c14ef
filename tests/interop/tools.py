"""Debian's skopeo, podman and buildah, kept to directories of the test."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

from anyarch.emulation import find_emulators

if TYPE_CHECKING:
    from pathlib import Path

CLONE_NEWUSER, CLONE_NEWNS = 0x10000000, 0x00020000
MS_REC, MS_PRIVATE = 16384, 1 << 18

ARM64 = (
    r":anyarch-test:M::\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00"
    r":\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff:{}:F"
)


def run(*argv: str, check: bool = True, **more: object) -> str:
    """Standard output of a program; the test fails with what it said when its status is not 0."""
    done = subprocess.run(argv, capture_output=True, text=True, check=False, **more)  # type: ignore[call-overload]
    assert not check or done.returncode == 0, f"{' '.join(argv)}: status {done.returncode}\n{done.stderr}"
    return str(done.stdout)


def podman(directory: Path, *words: str) -> list[str]:
    """podman with its storage below `directory`, by flags that work with any layout of cgroups."""
    return [
        "podman",
        *("--root", str(directory / "podman"), "--runroot", str(directory / "podman-run")),
        *("--storage-driver", "vfs", "--cgroup-manager", "cgroupfs", "--runtime", "runc"),
        *("--events-backend", "none"),
        *words,
    ]


def podman_run(directory: Path, image: str, *words: str) -> str:
    # Limits that need no CAP_SYS_RESOURCE, which not every machine's root has.
    limits = ("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=4096:4096")
    return run(*podman(directory, "run", "--rm", "--network", "host", *limits, image, *words))


def buildah(directory: Path, *words: str) -> list[str]:
    return [
        "buildah",
        *("--root", str(directory / "buildah"), "--runroot", str(directory / "buildah-run")),
        *("--storage-driver", "vfs"),
        *words,
    ]


def in_private_emulation(script: str) -> str:
    """Run a shell script where arm64 programs run under QEMU: in a user namespace with all ids and a
    binfmt_misc of its own. The machine's table is not touched."""
    return run(sys.executable, "-c", _LAUNCH, script, ARM64.format(find_emulators()["aarch64"].path))


_LAUNCH = f"""
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
ready, told = os.pipe(), os.pipe()
child = os.fork()
if child == 0:
    if libc.unshare({CLONE_NEWUSER | CLONE_NEWNS}):
        raise OSError(ctypes.get_errno(), "unshare")
    os.write(ready[1], b"x")
    os.read(told[0], 1)
    libc.mount(b"none", b"/", None, {MS_REC | MS_PRIVATE}, None)
    table = b"/proc/sys/fs/binfmt_misc"
    if libc.mount(b"binfmt_misc", table, b"binfmt_misc", 0, None):
        raise OSError(ctypes.get_errno(), "mount binfmt_misc")
    with open(table + b"/register", "w") as register:
        register.write(sys.argv[2])
    os.execvp("sh", ["sh", "-euc", sys.argv[1]])
os.read(ready[0], 1)
for name in ("uid_map", "gid_map"):
    with open(f"/proc/{{child}}/{{name}}", "w") as stream:
        stream.write("0 0 4294967295")
os.write(told[1], b"x")
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""

__all__ = ["buildah", "in_private_emulation", "podman", "podman_run", "run"]
