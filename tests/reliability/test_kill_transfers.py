"""Transfers killed at any moment: nothing unverified is anywhere, the next run finishes, sends no finished
blob a second time and leaves no temporary file."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import time
from typing import TYPE_CHECKING, Any

import pytest

from anyarch.spec.oci import Descriptor
from anyarch.spec.platform import Platform
from anyarch.testing.registry import FakeRegistry
from tests.reliability.processes import leftovers

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.reliability.processes import Family

MOMENTS = 6
PLATFORMS = ("amd64", "arm64")


@pytest.fixture
def fake() -> Iterator[FakeRegistry]:
    """A registry with an index `lib/app:1` of two platforms, each of twelve small layers and a large one."""
    rng = random.Random(9)
    with FakeRegistry() as registry:
        entries = []
        for name in PLATFORMS:
            layers = [rng.randbytes(3 << 20), *(rng.randbytes(2000) for _ in range(12))]
            blob = registry.add_image("lib/app", name, layers, architecture=name)
            platform = Platform.parse(f"linux/{name}").spec()
            entries.append(Descriptor(blob.media_type, blob.digest, len(blob.raw), platform=platform))
        registry.add_index("lib/app", "1", entries)
        yield registry


class Case:
    """One command, again and again from nothing, in a directory of its own."""

    def __init__(self, kind: str, fake: FakeRegistry, directory: Path) -> None:
        self.fake = fake
        self.directory = directory
        app, new = f"{fake.address}/lib/app", f"{fake.address}/new/app:1"
        out = f"oci-layout://{directory}/out/layout:1"
        self.arguments: tuple[str, ...] = {
            "registry": ("copy", "-q", f"{app}:1", new),
            "layout": ("copy", "-q", f"{app}:1", out),
            "archive": ("copy", "-q", f"{app}:1", f"oci-layout://{directory}/out/image.tar:1"),
            "store": ("copy", "-q", f"{app}:1", "store://app:1"),
            "push": ("copy", "-q", f"oci-layout://{directory}/source:1", new),
            "merge": ("merge", f"{app}:amd64", f"{app}:arm64", "-t", new, "--push", "--progress", "plain"),
            "create": ("imagetools", "create", "-t", new, f"{app}:1", "--progress", "plain"),
            "fetch": (
                *("fetch", "--lock", f"{directory}/out/app.lock", "--progress", "plain"),
                *("--platform", "linux/amd64,linux/arm64", f"{directory}/context"),
            ),
        }[kind]
        (directory / "context").mkdir()
        (directory / "context" / "Dockerfile").write_text(f"FROM {app}:1\n")
        (directory / "tmp").mkdir()
        fake.supports_mounts = False  # every blob is sent

    def clear(self) -> None:
        for name in ("out", "root"):
            shutil.rmtree(self.directory / name, ignore_errors=True)
        (self.directory / "out").mkdir()
        with self.fake.lock:
            for table in (self.fake.blobs, self.fake.manifests, self.fake.tags):
                for key in [key for key in table if key[0] == "new/app"]:  # type: ignore[attr-defined]
                    del table[key]  # type: ignore[attr-defined]
            self.fake.uploads.clear()
        self.fake.clear_log()

    def run(self, processes: Family, *arguments: str, kill_after_s: float | None = None) -> float:
        environment = {
            "PATH": "/usr/bin:/bin",
            "HOME": str(self.directory),
            "TMPDIR": str(self.directory / "tmp"),
            "ANYARCH_ROOT": str(self.directory / "root"),
        }
        started = time.monotonic()
        process = processes.start(*(arguments or self.arguments), environment=environment)
        if kill_after_s is None:
            output = process.communicate()
            assert process.returncode == 0, output
        else:
            time.sleep(kill_after_s)
            process.send_signal(signal.SIGKILL)
            process.communicate()
        return time.monotonic() - started

    def files(self) -> dict[str, str]:
        """The digests of all files that the command wrote, temporary ones included; the store's own database
        and locks aside."""
        found = {}
        for path in sorted([*self.directory.glob("out/**/*"), *self.directory.glob("root/blobs/**/*")]):
            if path.is_file():
                name = str(path.relative_to(self.directory))
                found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        return found

    def unverified(self) -> list[str]:
        """Blobs whose names are not what they are."""
        files = self.files().items()
        return [name for name, digest in files if "/blobs/sha256/" in name and name[-64:] != digest]

    def sent_twice(self) -> list[str]:
        done = [r.path.partition("digest=")[2] for r in self.fake.requests("PUT", "/uploads/", status=201)]
        return sorted({digest for digest in done if done.count(digest) > 1})

    def incomplete(self) -> list[str]:
        """What the tag at the target leads to and is not there."""
        root = self.fake.tags.get(("new/app", "1"))
        waiting = [root] if root else []
        missing = []
        while waiting:
            digest = waiting.pop()
            manifest = self.fake.manifests.get(("new/app", digest))
            if manifest is None:
                if ("new/app", digest) not in self.fake.blobs:
                    missing.append(digest)
                continue
            document: dict[str, Any] = json.loads(manifest.raw)
            below = [*document.get("manifests", ()), *document.get("layers", ())]
            below += [document["config"]] if "config" in document else []
            waiting += [entry["digest"] for entry in below]
        return missing


@pytest.mark.parametrize(
    "kind", ["registry", "layout", "archive", "store", "push", "merge", "create", "fetch"]
)
def test_a_transfer_killed_at_any_moment_is_finished_by_the_next(
    processes: Family, fake: FakeRegistry, tmp_path: Path, kind: str
) -> None:
    case = Case(kind, fake, tmp_path)
    case.run(processes, "copy", "-q", f"{fake.address}/lib/app:1", f"oci-layout://{tmp_path}/source:1")
    case.clear()
    whole = case.run(processes)
    wanted, image = case.files(), fake.tags.get(("new/app", "1"))
    assert wanted or image
    rng = random.Random(hashlib.sha256(kind.encode()).digest())
    for fraction in sorted(0.2 + 0.8 * rng.random() for _ in range(MOMENTS)):
        case.clear()
        where = f"{kind} killed after {fraction:.3f} of {whole:.2f} s"
        case.run(processes, kill_after_s=fraction * whole)
        assert processes.remaining() == {}, where
        assert case.unverified() == [], where
        assert case.incomplete() == [], where
        case.run(processes)
        assert case.files() == wanted, where
        assert fake.tags.get(("new/app", "1")) == image, where
        assert case.incomplete() == [], where
        assert case.sent_twice() == [], where
        assert os.listdir(tmp_path / "tmp") == [], where
        for directory in ("partial", "uploads"):
            path = tmp_path / "root" / directory
            assert not path.exists() or os.listdir(path) == [], where
        if (tmp_path / "root/locks").exists():
            assert leftovers(tmp_path / "root") == [], where
