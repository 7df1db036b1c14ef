"""Work that is done once: a large context, a large graph, one build for many platforms, an image unpacked.

python bench/once.py graph VERTICES DIRECTORY      prints a JSON object
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from anyarch.engine.cache import StoredCache
from anyarch.llb.definition import Definition
from anyarch.llb.ops import ActionMkdir
from anyarch.llb.state import merge, scratch
from anyarch.solver.solver import Solver
from anyarch.store.store import Store
from anyarch.worker.graph import load
from anyarch.worker.worker import Worker
from daemon import ours, theirs
from layers import make_files
from peers import run

if TYPE_CHECKING:
    from peers import Anyarch, Buildah

SIX = ("linux/amd64", "linux/arm64", "linux/arm/v7", "linux/s390x", "linux/ppc64le", "linux/riscv64")
CHAIN = 500
NEUTRAL = """
FROM --platform=$BUILDPLATFORM busybox AS assets
COPY files /src
RUN cat /src/d0000/*.txt | sha256sum > /sum && mkdir /out && cp -r /src /out/src && cp /sum /out/
FROM scratch
COPY --from=assets /out /app
COPY files /files
"""


def context(anyarch: Anyarch, directory: Path) -> tuple[float, float]:
    """Seconds of a first build with a context of 50,000 files, and of one that finds it unchanged."""
    place = directory / "context"
    make_files(place / "files", 50_000)
    (place / "Dockerfile").write_text("FROM scratch\nCOPY files /files\n")
    time.sleep(2.1)  # files that were just written are not trusted to stay
    firsts, seconds = [], []
    for _ in range(3):
        anyarch.forget()
        os.sync()
        firsts.append(anyarch.build(place))
        seconds.append(anyarch.build(place))
    return statistics.median(firsts), statistics.median(seconds)


def neutral(anyarch: Anyarch, directory: Path) -> tuple[float, float]:
    """Seconds of a build of neutral and COPY steps for one platform and for six, each from nothing."""
    place = directory / "neutral"
    make_files(place / "files", 10_000)
    (place / "Dockerfile").write_text(NEUTRAL)
    anyarch.build(place)  # the interpreter's and the kernel's caches
    times: dict[tuple[str, ...], list[float]] = {SIX[:1]: [], SIX: []}
    for _ in range(5):
        for platforms, found in times.items():
            anyarch.forget()
            os.sync()
            found.append(anyarch.build(place, platforms=platforms, oci=True))
    return statistics.median(times[SIX[:1]]), statistics.median(times[SIX])


def unpack(anyarch: Anyarch, buildah: Buildah, directory: Path, registry: str) -> dict[str, float]:
    """Seconds until an image of ten layers and 50,000 files is there as a root file system, by side. The
    daemons, ours and BuildKit's, take part where there is one of BuildKit's, and `buildctl`."""
    place = directory / "big"
    lines = ["FROM busybox"]
    for number in range(10):
        make_files(place / f"files{number}", 5000, seed=number)
        lines.append(f"COPY files{number} /files{number}")
    (place / "Dockerfile").write_text("\n".join(lines) + "\n")
    anyarch.push(place, f"{registry}/library/big")
    step = directory / "step"
    step.mkdir()
    (step / "Dockerfile").write_text('FROM big\nRUN ["/bin/true"]\n')
    times: dict[str, list[float]] = {}
    for turn in range(3):
        anyarch.forget()
        os.sync()
        times.setdefault("anyarch", []).append(anyarch.build(step))
        buildah.forget()
        os.sync()
        times.setdefault("buildah", []).append(buildah.pull_and_mount("docker.io/library/big"))
        for name, seconds in _pull_by_daemons(directory / f"daemons{turn}", step, registry).items():
            times.setdefault(name, []).append(seconds)
    return {name: statistics.median(found) for name, found in times.items()}


def _pull_by_daemons(directory: Path, step: Path, registry: str) -> dict[str, float]:
    """Seconds of a step above the image, for which each daemon has to pull it; the client is the same."""
    directory.mkdir()
    configuration = directory / "buildkitd.toml"
    configuration.write_text(
        f'[registry."docker.io"]\nmirrors = ["{registry}"]\n[registry."{registry}"]\nhttp = true\n'
    )
    found: dict[str, float] = {}
    peer = theirs(directory, "--config", str(configuration))
    client = shutil.which("buildctl")
    if peer is None or client is None:
        return found
    for name, daemon in (
        ("anyarchd", ours(directory, "--config", str(configuration))),
        ("buildkitd", peer),
    ):
        with daemon:
            os.sync()
            argv = [client, "--addr", f"unix://{daemon.address}", "build", "--progress=plain"]
            argv += ["--frontend", "dockerfile.v0", "--local", f"context={step}", "--local"]
            argv.append(f"dockerfile={step}")
            found[name] = run(argv, {**os.environ, "HOME": str(directory)})
    return found


def graph(vertices: int) -> float:
    """CPU seconds in which a graph of so many cached vertices is solved, in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="anyarch-bench-") as directory:
        argv = [sys.executable, __file__, "graph", str(vertices), directory]
        subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
        times = [
            json.loads(subprocess.run(argv, check=True, capture_output=True, text=True).stdout)["cpu_s"]
            for _ in range(3)
        ]
        return float(statistics.median(times))


def _definition(vertices: int) -> bytes:
    ends = []
    for number in range(vertices // CHAIN):
        state = scratch()
        for step in range(CHAIN):
            state = state.file(ActionMkdir(f"/{number}/{step % 50}/{step}", 0o755, True))
        ends.append(state)
    return merge(ends).marshal().marshal()


async def _solve(root: Path, raw: bytes) -> None:
    with Store.open(root) as store:
        async with (
            Worker(store, lambda event: None) as worker,
            Solver(StoredCache(store.cache), lambda event: None) as solver,
        ):
            edge = load(solver, worker, Definition.unmarshal(raw))
            assert edge is not None
            await solver.solve([edge])


def main() -> None:
    vertices, directory = int(sys.argv[2]), Path(sys.argv[3])
    raw = _definition(vertices)
    started = time.process_time()
    asyncio.run(_solve(directory / "store", raw))
    print(json.dumps({"cpu_s": time.process_time() - started}))


if __name__ == "__main__":
    main()
