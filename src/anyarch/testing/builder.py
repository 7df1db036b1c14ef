"""A build runner for tests: a Dockerfile as text in, an image to look into out.

image = build('''
    FROM busybox
    RUN uname -m > /arch
''', platform="linux/arm64")
assert image.read_text("/arch") == "aarch64\\n"
"""

from __future__ import annotations

import asyncio
import io
import tarfile
import textwrap
from typing import TYPE_CHECKING, Any

from anyarch.engine.request import BuildRequest, Output
from anyarch.engine.solve import BuildStats, build_async
from anyarch.spec.oci import ImageConfig, Index, Manifest, decode

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from anyarch.engine.request import BuildResult
    from anyarch.solver.events import Event

__all__ = ["Builder", "BuiltImage"]


class BuiltImage:
    """The result of one build: its files by platform, its documents, what was executed, all events."""

    def __init__(
        self,
        result: BuildResult,
        files: Path,
        layout: Path,
        platforms: tuple[str, ...],
        executed: list[str],
        events: list[Event],
    ) -> None:
        self.result = result
        self.platforms = platforms
        self.executed = executed
        self.events = events
        self.layout = layout
        self._files = files

    def path(self, path: str, platform: str | None = None) -> Path:
        """Where a file of the image lies in a directory that was exported."""
        root = self._files
        if len(self.platforms) > 1:
            root = root / (platform or self.platforms[0]).replace("/", "_")
        return root / path.lstrip("/")

    def read_text(self, path: str, platform: str | None = None) -> str:
        return self.path(path, platform).read_text()

    def listing(self, path: str = "", platform: str | None = None) -> list[str]:
        """All paths below `path`, sorted."""
        root = self.path(path, platform)
        return sorted(str(found.relative_to(root)) for found in root.rglob("*"))

    def blob(self, digest: str) -> bytes:
        return (self.layout / "blobs" / digest.replace(":", "/")).read_bytes()

    def members(self, layer: int, platform: str | None = None) -> dict[str, tarfile.TarInfo]:
        """The entries of one layer's tar (-1: the last layer) by path, whiteouts included."""
        raw = self.blob(self.manifest(platform).layers[layer].digest)
        with tarfile.open(fileobj=io.BytesIO(raw)) as archive:
            return {member.name.rstrip("/"): member for member in archive}

    def member(self, path: str, platform: str | None = None) -> tarfile.TarInfo:
        """What the image says of a path: owner, mode and time, which an export for a user does not keep."""
        for layer in range(len(self.manifest(platform).layers) - 1, -1, -1):
            found = self.members(layer, platform).get(path.lstrip("/"))
            if found is not None:
                return found
        raise KeyError(path)

    @property
    def index(self) -> Index | None:
        """The image index; None when the build gave a single manifest."""
        assert self.result.digest is not None
        return decode(Index, self.blob(self.result.digest)) if len(self.platforms) > 1 else None

    def manifest(self, platform: str | None = None) -> Manifest:
        found = next(p for p in self.result.platforms if platform in (None, p.platform))
        return decode(Manifest, self.blob(found.digest))

    def config(self, platform: str | None = None) -> ImageConfig:
        return decode(ImageConfig, self.blob(self.manifest(platform).config.digest))


class Builder:
    """Builds in one store below `directory`; contexts, outputs and the store go away with it."""

    def __init__(self, directory: Path, **defaults: Any) -> None:
        self.directory = directory
        self.context = directory / "context"
        self.context.mkdir(parents=True, exist_ok=True)
        self.store = directory / "store"
        self._defaults = defaults
        self._number = 0

    def write(self, files: Mapping[str, str | bytes]) -> None:
        """Put files into the context."""
        for name, content in files.items():
            path = self.context / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)

    def __call__(
        self,
        dockerfile: str | bytes,
        /,
        *,
        platform: str | Iterable[str] = "linux/amd64",
        files: Mapping[str, str | bytes] | None = None,
        outputs: tuple[Output, ...] = (),
        **request: Any,
    ) -> BuiltImage:
        """Build and export the files and an OCI layout beside what `outputs` asks for. Raises as the engine
        does."""
        self.write(files or {})
        self._number += 1
        out = self.directory / f"out{self._number}"
        platforms = (platform,) if isinstance(platform, str) else tuple(platform)
        text = textwrap.dedent(dockerfile).encode() if isinstance(dockerfile, str) else dockerfile
        stats = BuildStats()
        events: list[Event] = []
        layout = out / "layout"
        result = asyncio.run(
            build_async(
                BuildRequest(
                    **{
                        "context": str(self.context),
                        "dockerfile_data": text,
                        "platforms": platforms,
                        "outputs": (
                            Output("oci", str(layout), {"tar": "false"}),
                            Output("local", str(out / "files")),
                            *outputs,
                        ),
                        "root": str(self.store),
                        **self._defaults,
                        **request,
                    }
                ),
                events.append,
                stats=stats,
            )
        )
        return BuiltImage(
            result, out / "files", layout, platforms, [vertex.name for vertex in stats.executed], events
        )
