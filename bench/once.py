"""Work that is done once: a large context, a large graph, one build for many platforms, an image unpacked.

python bench/once.py graph VERTICES DIRECTORY      prints a JSON object
"""

from __future__ import annotations

import asyncio
import json
import os
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
from layers import make_files

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


def unpack(anyarch: Anyarch, buildah: Buildah, directory: Path, registry: str) -> tuple[float, float]:
    """Seconds until an image of ten layers and 50,000 files is there as a root file system."""
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
    ours, theirs = [], []
    for _ in range(3):
        anyarch.forget()
        os.sync()
        ours.append(anyarch.build(step))
        buildah.forget()
        os.sync()
        theirs.append(buildah.pull_and_mount("docker.io/library/big"))
    return statistics.median(ours), statistics.median(theirs)


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
