"""`--load`: give an image to the docker engine or to podman on this machine."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

from anyarch.errors import OutputError
from anyarch.exporter.layout import write_layout_tar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from anyarch.exporter.layout import LayoutImage
    from anyarch.spec.reference import Reference
    from anyarch.store.content import ContentStore

__all__ = ["find_engine", "load", "takes_indexes"]

_PROBE_TIMEOUT_S = 20


def find_engine() -> list[str]:
    """The command of an engine that answers: docker, else podman. Raises `OutputError` saying what was
    tried."""
    tried = []
    for program, probe in (
        ("docker", ["version", "--format", "{{.Server.Version}}"]),
        ("podman", ["version"]),
    ):
        path = shutil.which(program)
        if path is None:
            tried.append(f"{program} is not installed")
            continue
        try:
            done = subprocess.run([path, *probe], capture_output=True, timeout=_PROBE_TIMEOUT_S, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            tried.append(f"{program}: {error}")
            continue
        if done.returncode == 0:
            return [path]
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
        tried.append(f"{program}: {lines[-1] if lines else f'exit status {done.returncode}'}")
    raise OutputError(
        "--load: no engine to load the image into: " + "; ".join(tried),
        hint="start docker or install podman, or write an archive with -o type=docker,dest=image.tar",
    )


def takes_indexes(engine: list[str]) -> bool:
    """Whether the engine keeps images of several platforms: docker with the image store of containerd."""
    if not engine[0].endswith("docker"):
        return False
    try:
        done = subprocess.run(
            [*engine, "info", "--format", "{{json .DriverStatus}}"],
            capture_output=True,
            timeout=_PROBE_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return b"io.containerd.snapshotter.v1" in done.stdout


def load(
    content: ContentStore,
    image: LayoutImage,
    names: Sequence[Reference],
    on_step: Callable[[str], None],
    *,
    is_index: bool = False,
) -> None:
    """Load an image. Raises `OutputError`, also where an index is not for the engine."""
    engine = find_engine()
    if is_index and not takes_indexes(engine):
        raise OutputError(
            "docker exporter does not currently support exporting manifest lists",
            hint="choose one --platform, use type=oci or --push for several, or let docker use the image "
            "store of containerd",
        )
    process = subprocess.Popen(
        [*engine, "load"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        with process.stdin as pipe:
            write_layout_tar(content, image, names, pipe.write, docker=not is_index)
    except BrokenPipeError:
        on_step(f"{engine[0]} load closed its input")  # its own message says why, below
    output = process.stdout.read().decode("utf-8", "replace").strip()
    process.stdout.close()
    if process.wait() != 0:
        raise OutputError(f"{engine[0]} load failed: {output or f'exit status {process.returncode}'}")
    on_step(f"loading into {engine[0].rpartition('/')[2]}")
