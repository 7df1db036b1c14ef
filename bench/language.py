"""The Dockerfile frontend alone: parsing and converting, without an engine behind it."""

from __future__ import annotations

import asyncio
import statistics
import time
from typing import TYPE_CHECKING

from anyarch.frontend.dockerfile.build import build
from anyarch.frontend.gateway import BuildOpts, FileStat, ResolvedImage
from anyarch.spec.platform import host_platform

if TYPE_CHECKING:
    from anyarch.frontend.gateway import DirEntry
    from anyarch.llb.definition import Definition
    from anyarch.solver.events import WarningEvent
    from anyarch.spec.platform import Platform

__all__ = ["PLATFORMS", "dockerfile", "measure"]

PLATFORMS = (
    "linux/amd64", "linux/arm64", "linux/arm/v7", "linux/arm/v6", "linux/riscv64", "linux/s390x",
    "linux/ppc64le", "linux/386",
)  # fmt: skip
_A_STAGE = 10
_CONFIG = (
    b'{"architecture":"%s","os":"linux","config":{"Env":["PATH=/bin"]},"rootfs":{"diff_ids":["sha256:%s"]}}'
)


def dockerfile(instructions: int) -> bytes:
    """So many instructions, ten a stage, of all usual kinds; each stage takes files of the one before, and
    all see their platform."""
    lines = ["ARG BASE=busybox"]
    for stage in range(instructions // _A_STAGE):
        lines.append(f"FROM $BASE AS stage{stage}")
        body = ["ARG TARGETARCH TARGETPLATFORM", f"WORKDIR /work{stage}"]
        if stage:
            body.append(f"COPY --from=stage{stage - 1} --chown=1000:1000 /out{stage - 1} ./in/")
        number = 0
        while len(body) < _A_STAGE - 1:
            kinds = (
                f'ENV NAME{number}="${{TARGETARCH:-none}}-{number}" OTHER{number}=$TARGETPLATFORM',
                f"RUN make ARCH=$TARGETARCH step{number} && \\\n    make install > /out{stage}",
                f"COPY src/{number}* ./src{number}/",
                f'LABEL org.example.{number}="stage {stage}"',
                f"RUN --mount=type=cache,target=/cache/{number} --mount=target=/ctx echo {number}",
            )
            body.append(kinds[number % len(kinds)])
            number += 1
        lines += body
    return ("\n".join(lines) + "\n").encode()


class _Files:
    """A context that holds a Dockerfile and nothing else."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    async def read_file(self, path: str, *, length: int | None = None) -> bytes:
        from anyarch.errors import PathNotFound

        if path != "Dockerfile":
            raise PathNotFound(path)
        return self._data

    async def read_dir(self, path: str) -> list[DirEntry]:
        return []

    async def stat_file(self, path: str) -> FileStat:
        return FileStat("Dockerfile", 0o100644, len(self._data), 0, 0, "")


class _Gateway:
    """Answers at once."""

    def __init__(self, data: bytes) -> None:
        self._files = _Files(data)
        self.build_opts = BuildOpts({"platform": ",".join(PLATFORMS)}, build_platforms=(host_platform(),))

    async def solve(self, definition: Definition) -> _Files:
        return self._files

    async def resolve_image_config(
        self, reference: str, *, platform: Platform | None, mode: str, log_name: str, layout: str = ""
    ) -> ResolvedImage:
        name = platform.architecture.encode() if platform else b"amd64"
        return ResolvedImage(reference, f"sha256:{'1' * 64}", _CONFIG % (name, b"2" * 64))

    async def source_time(self, definition: Definition, *, log_name: str) -> int | None:
        return None

    def warn(self, warning: WarningEvent) -> None:
        """Nobody looks."""


def measure(instructions: int, rounds: int = 9) -> float:
    """The median time, in seconds, of converting for 8 platforms. It is the processor's: nothing is waited
    for, and what else the machine does stays out."""
    data = dockerfile(instructions)
    times = []
    for _ in range(rounds):
        started = time.process_time()
        result = asyncio.run(build(_Gateway(data)))
        times.append(time.process_time() - started)
        assert len(result.refs) == len(PLATFORMS)
    return statistics.median(times)


if __name__ == "__main__":
    for count in (200, 400, 800):
        print(f"{count} instructions: {measure(count) * 1000:.0f} ms")
