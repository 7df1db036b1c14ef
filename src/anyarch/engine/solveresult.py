"""What a frontend gives, and what exporters make of it: refs with their platforms, configs, times."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from anyarch.engine.attestations import AttestationRef
from anyarch.errors import BuildError
from anyarch.llb.definition import Definition
from anyarch.spec.codec import json_decoder
from anyarch.spec.number import natural
from anyarch.spec.platform import Platform, host_platform

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anyarch.engine.provenance import ResultGraph
    from anyarch.frontend.gateway import FrontendResult

__all__ = [
    "SolveResult",
    "config_for",
    "epoch_in",
    "is_image",
    "named_graphs",
    "of_frontend",
    "result_graphs",
]

CONFIG = "containerimage.config"
_PLATFORMS = "refs.platforms"
_NULL = b"null"
_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class SolveResult(msgspec.Struct, frozen=True):
    """What a frontend gives: one definition (`ref`), or one a platform id (`refs`); None is the empty result.
    Keys of `metadata` are BuildKit's: `containerimage.config[/ID]`, `refs.platforms`."""

    ref: Definition | None = None
    refs: dict[str, Definition | None] | None = None
    metadata: dict[str, bytes] = {}
    attestations: dict[str, tuple[AttestationRef, ...]] = {}
    """By platform id."""


class _PlatformItem(msgspec.Struct):
    id: str = msgspec.field(name="ID", default="")
    platform: dict[str, str | list[str]] = msgspec.field(name="Platform", default_factory=dict)


class _Platforms(msgspec.Struct):
    platforms: list[_PlatformItem] | None = msgspec.field(name="Platforms", default=None)


def of_frontend(found: FrontendResult) -> SolveResult:
    metadata = dict(found.metadata)
    if not found.platforms:
        return SolveResult(metadata=metadata)
    items = [
        {"ID": name, "Platform": msgspec.to_builtins(platform.spec())} for name, platform in found.platforms
    ]
    metadata[_PLATFORMS] = msgspec.json.encode({"Platforms": items})
    if len(found.platforms) == 1 and not found.multi_platform:
        name = found.platforms[0][0]
        metadata[CONFIG] = found.configs[name]
        if name in found.base_configs:
            metadata["containerimage.base.config"] = found.base_configs[name]
        return SolveResult(ref=found.refs.get(name), metadata=metadata)
    for name, _ in found.platforms:
        metadata[f"{CONFIG}/{name}"] = found.configs[name]
        if name in found.base_configs:
            metadata[f"containerimage.base.config/{name}"] = found.base_configs[name]
    refs = {name: found.refs.get(name) for name, _ in found.platforms}
    return SolveResult(refs=refs, metadata=metadata)


def named_graphs(result: SolveResult, *, is_exported: bool) -> list[tuple[str, Platform, Definition | None]]:
    """The refs of a result with their platforms, in the order of `refs.platforms`. One that is listed twice
    is an error of what is exported only. Raises `BuildError`."""
    raw = result.metadata.get(_PLATFORMS)
    listed: list[_PlatformItem] = []
    if raw:
        try:
            listed = json_decoder(_Platforms).decode(raw if raw != _NULL else b"{}").platforms or []
        except msgspec.DecodeError as error:
            raise BuildError(f"failed to parse platforms passed to provenance processor: {error}") from None
        _check_platforms(listed)
    if result.refs is None:
        platform = _platform(listed[0].platform) if listed else _of_config(result.metadata.get(CONFIG, b""))
        return [(listed[0].id if listed else str(platform), platform, result.ref)]
    if not listed:
        if len(result.refs) > 1:
            raise BuildError("number of platforms does not match references 0 " + str(len(result.refs)))
        return [(name, host_platform(), definition) for name, definition in result.refs.items()]
    if not is_exported:
        listed = list({item.id: item for item in listed}.values())
    if len(listed) != len(result.refs):
        raise BuildError(f"number of platforms does not match references {len(listed)} {len(result.refs)}")
    found = []
    for item in listed:
        if item.id not in result.refs:
            raise BuildError(f"failed to find ref for ID {item.id}")
        found.append((item.id, _platform(item.platform), result.refs[item.id]))
    return found


def result_graphs(named: Sequence[tuple[str, Platform, Definition | None]]) -> list[ResultGraph]:
    from anyarch.engine.provenance import ResultGraph

    return [ResultGraph(*item) for item in named]


def _check_platforms(listed: Sequence[_PlatformItem]) -> None:
    """Raises `BuildError` for a list that a frontend must not give."""
    if not listed:
        raise BuildError("invalid empty platforms index for exporter")
    for item in listed:
        if not item.id:
            raise BuildError("invalid empty platform key for exporter")
        if not item.platform.get("os") or not item.platform.get("architecture"):
            raise BuildError(f"invalid platform value {item.platform} for exporter")


def is_image(result: SolveResult) -> bool:
    """Whether there is anything that has a platform."""
    return _PLATFORMS in result.metadata or result.ref is not None or bool(result.refs)


def _platform(value: dict[str, str | list[str]]) -> Platform:
    def text(key: str) -> str:
        found = value.get(key, "")
        return found if isinstance(found, str) else ""

    features = value.get("os.features") or []
    made = Platform.make(text("os"), text("architecture"), text("variant"))
    return msgspec.structs.replace(
        made, os_version=text("os.version"), os_features=tuple(features) if isinstance(features, list) else ()
    )


class _Target(msgspec.Struct):
    os: str = ""
    architecture: str = ""
    variant: str = ""


def _of_config(raw: bytes) -> Platform:
    if not raw:
        return host_platform()
    try:
        target = json_decoder(_Target).decode(raw if raw != _NULL else b"{}")
    except msgspec.DecodeError as error:
        raise BuildError(f"failed to parse image config: {error}") from None
    if bool(target.os) != bool(target.architecture):
        raise BuildError("invalid image config: os and architecture must be specified together")
    if not target.os or not target.architecture:
        return host_platform()
    return Platform.make(target.os, target.architecture, target.variant)


def config_for(raw: bytes, platform: Platform) -> bytes:
    """The image config for `platform`, whatever the frontend wrote into it; one of our own without any."""
    try:
        document = msgspec.json.decode(raw) if raw else {"config": {"Env": [_PATH], "WorkingDir": "/"}}
    except msgspec.DecodeError as error:
        raise BuildError(f"failed to parse image config: {error}") from None
    if document is None:
        raise BuildError("invalid null image config for export")
    if not isinstance(document, dict):
        raise BuildError("failed to parse image config: it is no object")
    document.update(os=platform.os, architecture=platform.architecture)
    document.pop("variant", None)
    if platform.variant:
        document["variant"] = platform.variant
    document.setdefault("rootfs", {"type": "layers", "diff_ids": []})
    if not document["rootfs"] or not document["rootfs"].get("type"):
        document["rootfs"] = {"type": "layers", "diff_ids": []}
    return msgspec.json.encode(document)


def epoch_in(result: SolveResult) -> int | None:
    prefix = "source.date.epoch/"
    found = (
        natural(value.decode("latin-1"))
        for key, value in result.metadata.items()
        if key.startswith(prefix) or key == "source.date.epoch"
    )
    return max((epoch for epoch in found if epoch is not None), default=None)
