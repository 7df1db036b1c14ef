"""Images on the way: push, pull and copy against skopeo, over loopback with Debian's docker-registry."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import time
import zlib
from typing import TYPE_CHECKING, Any, NamedTuple

from anyarch.testing.debian_registry import DebianRegistry

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["Measured", "measure"]

CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
ARCHITECTURES = ("amd64", "arm64", "riscv64", "s390x", "ppc64le", "386", "loong64")
MORE = ("mips64le", "mips64", "ppc64", "arm", "mips")


class Measured(NamedTuple):
    workload: str
    ours: float
    theirs: float | None
    target: str
    met: bool


class Layout:
    """An OCI layout made of random layers, with real gzip headers and no compression to speak of."""

    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "blobs/sha256").mkdir(parents=True)
        (path / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')

    def add(self, raw: bytes, kind: str, **more: Any) -> dict[str, Any]:
        digest = hashlib.sha256(raw).hexdigest()
        (self.path / "blobs/sha256" / digest).write_bytes(raw)
        return {"mediaType": kind, "digest": f"sha256:{digest}", "size": len(raw), **more}

    def image(self, architecture: str, sizes: list[int], seed: str) -> dict[str, Any]:
        source = random.Random(f"{seed}-{architecture}")
        layers, diff_ids = [], []
        for size in sizes:
            raw = b"".join(source.randbytes(min(size - n, 1 << 24)) for n in range(0, size, 1 << 24))
            diff_ids.append(f"sha256:{hashlib.sha256(raw).hexdigest()}")
            packer = zlib.compressobj(0, wbits=31)
            layers.append(self.add(packer.compress(raw) + packer.flush(), LAYER))
        config = {"architecture": architecture, "os": "linux", "config": {}}
        config["rootfs"] = {"type": "layers", "diff_ids": diff_ids}
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": self.add(json.dumps(config).encode(), CONFIG),
            "layers": layers,
        }
        platform = {"architecture": architecture, "os": "linux"}
        return self.add(json.dumps(manifest).encode(), MANIFEST, platform=platform)

    def finish(self, images: list[dict[str, Any]]) -> None:
        index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": images}
        root = images[0] if len(images) == 1 else self.add(json.dumps(index).encode(), INDEX)
        root = {**root, "annotations": {"org.opencontainers.image.ref.name": "1"}}
        root.pop("platform", None)
        (self.path / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [root]}))


def timed(*argv: str, env: dict[str, str] | None = None) -> float:
    started = time.perf_counter()
    subprocess.run(argv, check=True, capture_output=True, env={**os.environ, **(env or {})})
    return time.perf_counter() - started


def measure(directory: Path, alternate: Callable[..., tuple[float, ...]]) -> list[Measured]:
    """All of them, in `directory`; `alternate` as in run.py."""
    here = directory / "transfers"
    anyarch = os.path.join(os.path.dirname(sys.executable), "anyarch")
    results = []
    with DebianRegistry(here / "first", access_log=True) as first:
        large = Layout(here / "large")
        large.finish([large.image("amd64", [256 << 20] * 4, "large")])
        source = f"oci-layout://{large.path}:1"

        # skopeo remembers by the registry's address which blobs are there: a new one for each push.
        def pushed(*argv: str, prefix: str = "") -> float:
            place = here / "empty"
            with DebianRegistry(place) as empty:
                took = timed(*argv, f"{prefix}{empty.address}/lib/app:1")
            shutil.rmtree(place)
            return took

        ours, theirs = alternate(
            3,
            lambda: pushed(anyarch, "copy", "-q", source),
            lambda: pushed(
                *("skopeo", "copy", "-q", "--dest-tls-verify=false", f"oci:{large.path}:1"),
                prefix="docker://",
            ),
            between=os.sync,
        )
        target = "at least as fast as skopeo copy"
        results.append(Measured("push of 1 GB in 4 layers", ours, theirs, target, ours <= theirs))

        name = f"{first.address}/ours/pulled:1"
        timed(anyarch, "copy", "-q", source, name)

        def fresh() -> str:
            shutil.rmtree(here / "out", ignore_errors=True)
            return str(here / "out")

        def clean() -> None:
            fresh()
            os.sync()

        ours, theirs = alternate(
            3,
            lambda: timed(anyarch, "copy", "-q", name, f"oci-layout://{here}/out:1"),
            lambda: timed(
                "skopeo", "copy", "-q", "--src-tls-verify=false", f"docker://{name}", f"oci:{here}/out:1"
            ),
            between=clean,
        )
        fresh()
        results.append(Measured("pull of 1 GB in 4 layers", ours, theirs, target, ours <= theirs))

        sent = first.log.count("/blobs/uploads/")
        again, theirs = alternate(
            5,
            lambda: timed(anyarch, "copy", "-q", source, name),
            lambda: timed(
                "skopeo", "copy", "-q", "--dest-tls-verify=false", f"oci:{large.path}:1", f"docker://{name}"
            ),
        )
        sent = first.log.count("/blobs/uploads/") - sent  # both sides': the one that sends shows
        results.append(
            Measured(
                "push of the same again",
                again,
                theirs,
                f"under 0.3 s, no blob sent ({sent} uploads)",
                again < 0.3 and not sent,
            )
        )

        many = Layout(here / "many")
        many.finish([many.image(name, [20_000] * 60, "many") for name in ARCHITECTURES])
        app = f"{first.address}/many/app:1"
        timed(anyarch, "copy", "-q", f"oci-layout://{many.path}:1", app)
        flags = ("--all", "-q", "--src-tls-verify=false", "--dest-tls-verify=false")
        ours, theirs = alternate(
            3,
            lambda: pushed(anyarch, "copy", "-q", app),
            lambda: pushed("skopeo", "copy", *flags, f"docker://{app}", prefix="docker://"),
            between=os.sync,
        )
        results.append(
            Measured(
                "copy of 7 platforms with 60 layers each, registry to registry",
                ours,
                theirs,
                "at least 2 times skopeo copy --all",
                theirs / ours >= 2,
            )
        )

        wide = Layout(here / "wide")
        wide.finish([wide.image(name, [1000] * 5, "wide") for name in ARCHITECTURES + MORE])
        twelve = f"{first.address}/wide/app:1"
        timed(anyarch, "copy", "-q", f"oci-layout://{wide.path}:1", twelve)
        for flags in ((), ("--tree",), ("--format", "{{json .}}")):
            (median,) = alternate(9, lambda: timed(anyarch, "imagetools", "inspect", *flags, twelve))  # noqa: B023
            words = " ".join(flags)
            results.append(
                Measured(
                    f"imagetools inspect {words} of 12 platforms".replace("  ", " "),
                    median,
                    None,
                    "under 0.3 s",
                    median < 0.3,
                )
            )
    shutil.rmtree(here)
    return results
