"""A gateway for tests: files by local name, image configs by reference, and a record of what was asked."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from anyarch.errors import ManifestNotFound, PathNotFound
from anyarch.frontend.gateway import BuildOpts, ResolvedImage
from anyarch.llb.ops import SourceOp
from anyarch.spec.digest import Digest
from anyarch.spec.platform import Platform
from anyarch.spec.reference import Reference

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anyarch.frontend.gateway import DirEntry, FileStat
    from anyarch.llb.definition import Definition
    from anyarch.solver.events import WarningEvent

AMD64 = Platform("linux", "amd64")
SESSION = "session-1"


def image_config(platform: Platform, config: Mapping[str, Any] | None = None, layers: int = 1) -> bytes:
    """The bytes of an image config with `layers` layers (or as many as `config` says under `__layers__`)."""
    config = dict(config or {})
    layers = config.pop("__layers__", layers)
    document = {
        "architecture": platform.architecture,
        "os": platform.os,
        "created": "2024-01-01T00:00:00Z",
        "config": {"Env": ["PATH=/bin"], **config},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{number:064x}" for number in range(layers)]},
        "history": [{"created_by": f"layer {number}"} for number in range(layers)],
    }
    if platform.variant:
        document["variant"] = platform.variant
    return json.dumps(document).encode()


class FakeRef:
    def __init__(self, gateway: FakeGateway, definition: Definition) -> None:
        self.gateway = gateway
        self.definition = definition

    def _files(self) -> Mapping[str, bytes]:
        for op in self.definition.decoded.values():
            if isinstance(op.kind, SourceOp):
                return self.gateway.files.get(op.kind.identifier, {})
        return {}

    async def read_file(self, path: str, *, length: int | None = None) -> bytes:
        try:
            return self._files()[path][:length]
        except KeyError:
            raise PathNotFound(f"{path}: no such file or directory") from None

    async def read_dir(self, path: str) -> list[DirEntry]:
        raise PathNotFound(path)

    async def stat_file(self, path: str) -> FileStat:
        raise PathNotFound(path)


class FakeGateway:
    """`files` are by source identifier (`local://context`, a URL); `images` are run configs by reference,
    None: every image exists. `times` are those of sources."""

    def __init__(
        self,
        dockerfile: str | bytes = "",
        *,
        opts: Mapping[str, str] | None = None,
        images: Mapping[str, Mapping[str, Any] | None] | None = None,
        files: Mapping[str, Mapping[str, bytes]] | None = None,
        build_platforms: tuple[Platform, ...] = (AMD64,),
        inputs: Mapping[str, Definition] | None = None,
        frontend_images: bool = False,
    ) -> None:
        data = dockerfile.encode() if isinstance(dockerfile, str) else dockerfile
        self.data = data
        self.build_opts = BuildOpts(
            dict(opts or {}), SESSION, build_platforms, dict(inputs or {}), frontend_images
        )
        self.files = {"local://dockerfile": {"Dockerfile": data}, **(files or {})}
        self.images = (
            None if images is None else {str(Reference.parse(name)): run for name, run in images.items()}
        )
        self.resolved: list[tuple[str, Platform | None, str, str]] = []
        self.solved: list[Definition] = []
        self.warnings: list[WarningEvent] = []
        self.times: dict[str, int] = {}
        self.timed: list[tuple[str, str]] = []

    async def solve(self, definition: Definition) -> FakeRef:
        self.solved.append(definition)
        return FakeRef(self, definition)

    async def resolve_image_config(
        self, reference: str, *, platform: Platform | None, mode: str, log_name: str, layout: str = ""
    ) -> ResolvedImage:
        self.resolved.append((reference, platform, mode, log_name))
        if self.images is not None and reference not in self.images:
            raise ManifestNotFound(f"{reference}: not found")
        config = (self.images or {}).get(reference)
        raw = image_config(platform or AMD64, config)
        return ResolvedImage(reference, Digest.of(reference.encode()), raw)

    async def source_time(self, definition: Definition, *, log_name: str) -> int | None:
        (source,) = (op.kind for op in definition.decoded.values() if isinstance(op.kind, SourceOp))
        self.timed.append((source.identifier, log_name))
        return self.times.get(source.identifier)

    def warn(self, warning: WarningEvent) -> None:
        self.warnings.append(warning)
