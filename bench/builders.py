"""Builders of several nodes: a list with a dead node among five, and two equal nodes against one.

python bench/builders.py        prints a JSON object

The nodes are daemons of anyarch in network namespaces. Each does one step at a time, as a machine that is
full does; the steps sleep, so that what is measured is how the work is shared, not this machine's CPUs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from anyarch.testing.daemons import NodeDaemon
from anyarch.testing.debian_images import busybox_context

ROOT = Path(__file__).resolve().parent.parent
PLATFORMS = "linux/amd64,linux/arm64,linux/arm/v7,linux/riscv64,linux/s390x,linux/ppc64le"
RECIPE = (
    "FROM --platform=$BUILDPLATFORM busybox AS work\nARG TARGETARCH\n"
    "RUN sleep 4; echo $TARGETARCH {run} > /out\nFROM scratch\nCOPY --from=work /out /\n"
)


class Bench:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.environment = {
            **{
                name: value for name, value in os.environ.items() if not name.startswith(("BUILDX", "DOCKER"))
            },
            "HOME": str(directory),
            "ANYARCH_ROOT": str(directory / "root"),
        }
        self.base = directory / "base"
        self.run(
            *("build", "-q", "-o", f"type=oci,tar=false,dest={self.base}"),
            *("--file", str(ROOT / "examples/bases/busybox/Dockerfile")),
            str(busybox_context(ROOT / ".cache")),
        )

    def run(self, *words: str) -> float:
        """Seconds of one command."""
        start = time.monotonic()
        argv = [sys.executable, "-m", "anyarch", *words]
        done = subprocess.run(argv, env=self.environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(done.stderr)
        return time.monotonic() - start

    def create(self, name: str, daemons: list[NodeDaemon]) -> None:
        for number, daemon in enumerate(daemons):
            append = ["--append"] if number else []
            self.run("create", *append, "--name", name, "--driver", "remote", daemon.endpoint)

    def build(self, builder: str, run: int) -> float:
        context = self.directory / f"context{run}"
        context.mkdir(exist_ok=True)
        (context / "Dockerfile").write_text(RECIPE.format(run=run))
        return self.run(
            *("build", "--builder", builder, "--platform", PLATFORMS, "-o", "type=cacheonly"),
            *("--build-context", f"busybox=oci-layout://{self.base}", str(context)),
        )


def measure(directory: Path, *, rounds: int = 2) -> dict[str, float]:
    """Best of alternating runs, in seconds."""
    bench = Bench(directory)
    with ExitStack() as stack:
        daemons = []
        for number in range(5):
            flags = ("--oci-max-parallelism", "1")
            daemon = NodeDaemon(directory / f"node{number}", number, platforms=PLATFORMS, flags=flags)
            daemons.append(stack.enter_context(daemon))
        bench.create("one", daemons[:1])
        bench.create("two", daemons[1:3])
        bench.create("five", daemons)
        one, two = [], []
        for number in range(rounds):
            one.append(bench.build("one", number))
            two.append(bench.build("two", number))
        daemons[4].cut()
        listed = min(bench.run("ls") for _ in range(3))
        daemons[4].mend()
    return {"ls": listed, "one": min(one), "two": min(two)}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="anyarch-bench-") as scratch:
        print(json.dumps(measure(Path(scratch))))
