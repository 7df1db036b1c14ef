"""A build killed while it exports: a tag names the old image or all of the new one, outputs are whole or not
there, caches can be read, and the next build makes all of it."""

from __future__ import annotations

import json
import random
import shutil
import signal
import time
from typing import TYPE_CHECKING, Any

from anyarch.cache.importer import read_local_document
from anyarch.engine.request import CacheOption
from anyarch.store.store import Store
from anyarch.testing.builder import Builder
from anyarch.testing.registry import FakeRegistry
from tests.reliability.processes import leftovers
from tests.reliability.test_kill import at_fraction, content_of

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

    from tests.reliability.processes import Family

MOMENTS = 14
PLATFORMS = "linux/amd64,linux/arm64"
DOCKERFILE = """FROM scratch AS one
COPY common /common
FROM scratch
ARG TARGETARCH
COPY --from=one /common /common
COPY for-$TARGETARCH /own
COPY last /last
"""


class Case:
    """One build with every kind of output, again and again."""

    def __init__(self, directory: Path, registry: FakeRegistry) -> None:
        self.directory = directory
        self.registry = registry
        self.context = directory / "context"
        self.context.mkdir()
        (self.context / "Dockerfile").write_text(DOCKERFILE)
        rng = random.Random(7)
        for name in ("common", "for-amd64", "for-arm64", "last"):
            (self.context / name).write_bytes(rng.randbytes(600_000))

    def start(self, processes: Family) -> subprocess.Popen[str]:
        address, out = self.registry.address, self.directory
        return processes.start(
            *("build", "--platform", PLATFORMS, "--build-arg", "SOURCE_DATE_EPOCH=1700000000"),
            *("--progress", "rawjson"),
            *("-o", f"type=image,name={address}/app:1,push=true,compression=zstd"),
            *("-o", f"type=oci,tar=false,rewrite-timestamp=true,dest={out / 'layout'}"),
            *("-o", f"type=oci,rewrite-timestamp=true,compression=estargz,dest={out / 'image.tar'}"),
            *("-o", f"type=local,mode=delete,dest={out / 'files'}", "--allow", "buildx.local.delete"),
            *("--cache-to", f"type=registry,ref={address}/app:cache,mode=max"),
            *("--cache-to", f"type=local,dest={out / 'cache'},mode=max"),
            str(self.context),
            environment={"PATH": "/usr/bin:/bin", "ANYARCH_ROOT": str(out / "store")},
        )

    def whole(self, processes: Family) -> list[float]:
        process = self.start(processes)
        started = time.monotonic()
        assert process.stderr is not None
        lines, times = [], []
        for line in process.stderr:
            lines.append(line)
            times.append(time.monotonic() - started)
        assert process.wait() == 0, "".join(lines)
        return [*times, time.monotonic() - started]

    def killed(self, processes: Family, lines: int, delay_s: float) -> None:
        process = self.start(processes)
        assert process.stderr is not None
        for _ in range(lines):
            process.stderr.readline()
        time.sleep(delay_s)
        process.kill()
        output = process.communicate()
        assert process.returncode in (0, -signal.SIGKILL), output

    def is_complete(self, digest: str) -> bool:
        """Whether all that a manifest or index leads to is in the registry."""
        raw = self.registry.manifests.get(("app", digest))  # type: ignore[call-overload]
        if raw is None:
            return False
        document: dict[str, Any] = json.loads(raw.raw)
        if "manifests" in document:
            return all(self.is_complete(item["digest"]) for item in document["manifests"])
        blobs = [document["config"], *document["layers"]]
        return all(("app", blob["digest"]) in self.registry.blobs for blob in blobs)

    def outputs(self) -> dict[str, bytes]:
        found = {f"layout/{k}": v for k, v in content_of(self.directory / "layout").items()}
        found |= {f"files/{k}": v for k, v in content_of(self.directory / "files").items()}
        return found | {"image.tar": (self.directory / "image.tar").read_bytes()}

    def clear(self) -> None:
        for name in ("store", "layout", "files", "cache"):
            shutil.rmtree(self.directory / name, ignore_errors=True)
        (self.directory / "image.tar").unlink(missing_ok=True)


def test_an_export_killed_at_any_moment_leaves_nothing_half(processes: Family, tmp_path: Path) -> None:
    with FakeRegistry() as registry:
        case = Case(tmp_path, registry)
        times = case.whole(processes)
        wanted, image = case.outputs(), registry.tags["app", "1"]
        rng = random.Random(11)
        # The steps are over in the first part of the time; most moments are those of exports.
        for fraction in sorted(0.25 + 0.75 * rng.random() for _ in range(MOMENTS)):
            case.clear()
            registry.tags.clear()
            registry.manifests.clear()
            old = registry.add_image("app", "1").digest
            lines, delay_s = at_fraction(times, fraction)
            case.killed(processes, lines, delay_s)
            where = f"killed {delay_s:.4f} s after line {lines} of {len(times)} ({fraction:.3f} of the time)"
            assert processes.remaining() == {}, where
            assert registry.tags["app", "1"] in (old, image), where
            for tag in ("1", "cache"):
                if ("app", tag) in registry.tags and registry.tags["app", tag] != old:
                    assert case.is_complete(registry.tags["app", tag]), where
            archive = tmp_path / "image.tar"
            assert not archive.exists() or archive.read_bytes() == wanted["image.tar"], where
            if (tmp_path / "cache" / "index.json").exists():
                assert read_local_document(str(tmp_path / "cache"), tag="latest").config.records, where
            case.whole(processes)
            assert case.outputs() == wanted, where
            assert registry.tags["app", "1"] == image, where
            assert leftovers(tmp_path / "store") == [], where
            with Store.open(tmp_path / "store") as opened:
                assert opened.verify() == [], where
        reader = Builder(tmp_path / "reader")
        reader.write({path.name: path.read_bytes() for path in case.context.iterdir()})
        for option in (
            CacheOption("registry", {"ref": f"{registry.address}/app:cache"}),
            CacheOption("local", {"src": str(tmp_path / "cache")}),
        ):
            shutil.rmtree(reader.store, ignore_errors=True)
            built = reader(
                DOCKERFILE,
                platform=tuple(PLATFORMS.split(",")),
                cache_from=(option,),
                build_args={"SOURCE_DATE_EPOCH": "1700000000"},
            )
            assert built.executed == []
