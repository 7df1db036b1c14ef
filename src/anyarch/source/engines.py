"""Container engines on this machine, reached by their own programs: docker, podman, containerd's ctr.

Docker's classic store keeps one platform a name; with containerd's image store it takes whole indexes, as
containerd itself does. podman takes one image.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING

import msgspec

from anyarch.errors import OutputError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["ENGINES", "Engine", "find_engine"]

ENGINES = ("docker", "podman", "containerd")
_PROBE_TIMEOUT_S = 20
_PROBES: dict[str, tuple[str, tuple[str, ...]]] = {
    "docker": ("docker", ("info", "--format", "{{json .DriverStatus}}")),
    "podman": ("podman", ("version",)),
    "containerd": ("ctr", ("version",)),
}


class Engine(msgspec.Struct, frozen=True):
    """`argv` is the program that answers; `takes_indexes` whether its store holds images of several platforms
    under one name."""

    kind: str
    argv: tuple[str, ...]
    takes_indexes: bool

    def load(self, write: Callable[[Callable[[bytes | memoryview], object]], None]) -> str:
        """Give it an archive, which `write` writes to a function; answers what the program said. Raises
        `OutputError`."""
        words: tuple[str, ...] = ("load",)
        if self.kind == "containerd":
            words = ("images", "import", "--all-platforms", "--no-unpack", "-")
        process = subprocess.Popen(
            [*self.argv, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        assert process.stdin is not None
        assert process.stdout is not None
        is_cut = False
        try:
            try:
                with process.stdin as pipe:
                    write(pipe.write)
            except BrokenPipeError:
                is_cut = True  # its own message says why, below
            said = process.stdout.read().decode("utf-8", "replace").strip()
        except BaseException:
            process.kill()
            raise
        finally:
            process.stdout.close()
            status = process.wait()
        if status or is_cut:
            raise OutputError(
                f"{self.kind}: the image could not be loaded: {said or f'exit status {status}'}",
                hint="see the engine's own log; an archive is written with -o type=docker,dest=image.tar",
            )
        return said

    def save(self, name: str, path: str) -> None:
        """Write an image of the engine to an archive. Raises `OutputError`."""
        words: Sequence[str] = ("save", "-o", path, name)
        if self.kind == "podman":
            words = ("save", "--format", "oci-archive", "-o", path, name)
        elif self.kind == "containerd":
            words = ("images", "export", "--all-platforms", path, name)
        done = subprocess.run([*self.argv, *words], capture_output=True, check=False)
        if done.returncode:
            lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
            said = lines[-1] if lines else f"exit status {done.returncode}"
            raise OutputError(f"{self.kind}: {name} could not be read: {said}", hint="check the name")


def find_engine(kinds: Sequence[str] = ("docker", "podman")) -> Engine:
    """The first of `kinds` that answers. Raises `OutputError` saying what was tried."""
    tried = []
    for kind in kinds:
        program, probe = _PROBES[kind]
        path = shutil.which(program)
        if path is None:
            tried.append(f"{program} is not installed")
            continue
        argv: tuple[str, ...] = (path,)
        if kind == "containerd":
            argv += ("--namespace", os.environ.get("CONTAINERD_NAMESPACE") or "default")
        try:
            done = subprocess.run([*argv, *probe], capture_output=True, timeout=_PROBE_TIMEOUT_S, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            tried.append(f"{program}: {error}")
            continue
        if done.returncode == 0:
            return Engine(kind, argv, kind == "containerd" or _has_containerd_store(kind, done.stdout))
        lines = (done.stderr or done.stdout).decode("utf-8", "replace").strip().splitlines()
        tried.append(f"{program}: {lines[-1] if lines else f'exit status {done.returncode}'}")
    raise OutputError(
        "no engine to load the image into: " + "; ".join(tried),
        hint="start docker or install podman, or write an archive with -o type=docker,dest=image.tar",
    )


def _has_containerd_store(kind: str, said: bytes) -> bool:
    """What `docker info` tells of the image store: since 23.0 a driver type of containerd's."""
    return kind == "docker" and b"io.containerd.snapshotter" in said
