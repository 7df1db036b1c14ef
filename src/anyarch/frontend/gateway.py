"""What a frontend wants of the engine, and what it gives back.

The engine implements `Gateway`; tests have a fake. A frontend solves small definitions to read files (the
Dockerfile, the ignore file), resolves the configs of base images, and returns one definition and one image
config a platform.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import msgspec

from anyarch.errors import NotSupported
from anyarch.llb.definition import Definition
from anyarch.llb.state import State
from anyarch.spec.platform import Platform, host_platform

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anyarch.solver.events import WarningEvent

__all__ = [
    "BuildOpts",
    "CapNotSupported",
    "DirEntry",
    "FileStat",
    "FrontendResult",
    "Gateway",
    "Ref",
    "RequestNotSupported",
    "ResolvedImage",
    "ScanTargets",
    "check_caps",
]

_CAPS = frozenset(
    f"moby.buildkit.frontend.{name}" for name in ("inputs", "subrequests", "contexts", "gitquerystring")
)


class CapNotSupported(NotSupported):
    """A frontend cannot do what it is asked to be able to do: `name`."""

    def __init__(self, name: str) -> None:
        super().__init__(f"unsupported frontend capability {name}")
        self.name = name


class RequestNotSupported(NotSupported):
    """A question that a frontend has no answer for: `name`."""

    def __init__(self, message: str, *, name: str, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.name = name


def check_caps(opts: Mapping[str, str]) -> None:
    """Whether a frontend here has what `frontend.caps` asks for; what ends in `+forward` is another's matter.
    Raises `CapNotSupported`."""
    for cap in filter(None, opts.get("frontend.caps", "").split(",")):
        name, _, forward = cap.partition("+")
        if name not in _CAPS and not forward:
            raise CapNotSupported(name)


class FileStat(msgspec.Struct, frozen=True):
    """A file of a result. `mode` holds permission and type bits as `stat.st_mode` does; `size` in bytes."""

    path: str
    mode: int
    size: int = 0
    uid: int = 0
    gid: int = 0
    linkname: str = ""
    mtime_ns: int = 0


class DirEntry(msgspec.Struct, frozen=True):
    """An entry of a directory: its name and what `FileStat` says of it."""

    name: str
    stat: FileStat


class Ref(Protocol):
    """A result, evaluated when it is first looked into. Paths are inside its root; links are followed
    there."""

    async def read_file(self, path: str, *, length: int | None = None) -> bytes:
        """The content of a file, or its first `length` bytes. Raises `PathNotFound`, or what the evaluation
        raises.
        """
        ...

    async def read_dir(self, path: str) -> list[DirEntry]:
        """The entries of a directory, sorted by name. Raises `PathNotFound`."""
        ...

    async def stat_file(self, path: str) -> FileStat:
        """Raises `PathNotFound`."""
        ...


class ResolvedImage(msgspec.Struct, frozen=True):
    """`reference` is normalised and may differ from what was asked for (mirrors, policy); `digest` is that
    of what the registry has under it (index or manifest), empty when unknown; `config` the image config's
    exact bytes."""

    reference: str
    digest: str
    config: bytes


class BuildOpts(msgspec.Struct, frozen=True):
    """The circumstances of a build.

    `opts` are the frontend attributes (docs/dev: `filename`, `target`, `platform`, `build-arg:*`, …).
    `build_platforms` are the worker's, the native one first. `inputs` are graphs of the client by the names
    that `input:NAME` contexts use. With `frontend_images` every `# syntax=` is run as the image it names,
    Docker's own too. With `wants_scans` the result tells what an SBOM of it is made from.
    """

    opts: dict[str, str]
    session_id: str = ""
    build_platforms: tuple[Platform, ...] = ()
    inputs: dict[str, Definition] = {}
    frontend_images: bool = False
    wants_scans: bool = False

    @property
    def build_platform(self) -> Platform:
        """What `BUILDPLATFORM` says."""
        return self.build_platforms[0] if self.build_platforms else host_platform()


class Gateway(Protocol):
    """The engine as a frontend sees it."""

    @property
    def build_opts(self) -> BuildOpts: ...

    async def solve(self, definition: Definition) -> Ref:
        """The result of `definition`, evaluated when it is needed."""
        ...

    async def resolve_image_config(
        self, reference: str, *, platform: Platform | None, mode: str, log_name: str, layout: str = ""
    ) -> ResolvedImage:
        """The config of an image for `platform` (best match); `mode` is default, pull or local, `log_name`
        the progress vertex. With `layout` the image is that of the reference's digest in the OCI layout that
        the client offers under this name, and no registry is asked. Raises `RegistryError`
        (`ManifestNotFound`), `NoMatchingPlatform`."""
        ...

    async def source_time(self, definition: Definition, *, log_name: str) -> int | None:
        """When the only source in `definition` was made, seconds since 1970: a git repository's commit, a
        download's last change, or the newest file in a downloaded archive. None for anything else."""
        ...

    def warn(self, warning: WarningEvent) -> None:
        """Show a lint warning. Must not block."""
        ...


class ScanTargets(msgspec.Struct, frozen=True):
    """What an SBOM of a result is made from: the result, and by name what is to be scanned beside it.
    `ignores_cache`: a stage among them is made without cache."""

    core: State
    extras: dict[str, State] = {}
    ignores_cache: bool = False


class FrontendResult(msgspec.Struct, frozen=True):
    """What a frontend makes. Everything is by platform id (`linux/arm/v7`, with OS version where there is
    one).

    `refs` None is the empty result. `configs` are image config JSON whose `rootfs` holds the base's diff
    IDs only (to be replaced) and whose new history entries have no `created`: the exporter fills both.
    `base_configs` are the configs of the base images, so that it can tell inherited history from new.
    `multi_platform` asks for an index even for one platform. `metadata` are further facts for exporters
    (`source-date-epoch` by `key/platform id`). `warned` are the build checks that fired, each with its first
    line; those about base images speak of the first platform. `scans` are there when they were asked for.
    """

    refs: dict[str, Definition | None]
    configs: dict[str, bytes]
    platforms: tuple[tuple[str, Platform], ...]
    base_configs: dict[str, bytes] = {}
    multi_platform: bool = False
    metadata: dict[str, bytes] = {}
    warned: tuple[tuple[str, int], ...] = ()
    scans: dict[str, ScanTargets] = {}
