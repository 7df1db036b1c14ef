"""`copy`: images from place to place, for all platforms or some, several at once."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import msgspec

from anyarch.errors import NoMatchingPlatform, UsageError
from anyarch.imagetools.combine import Source, combine
from anyarch.imagetools.layout import LayoutReference
from anyarch.imagetools.origin import make_registry, open_origin
from anyarch.imagetools.places import ArchivePlace, EnginePlace, StorePlace, parse_place
from anyarch.imagetools.target import LayoutTarget, RegistryTarget
from anyarch.imagetools.transfer import Meter, Totals, copy_all
from anyarch.spec import media
from anyarch.spec.oci import Index, decode
from anyarch.spec.platform import Platform
from anyarch.spec.reference import Reference

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from anyarch.http.cancel import Cancel
    from anyarch.imagetools.origin import Origin
    from anyarch.imagetools.places import Place
    from anyarch.imagetools.target import Target
    from anyarch.registry.client import Registry
    from anyarch.solver.events import EventSink
    from anyarch.spec.oci import Blob, Descriptor

__all__ = ["Copied", "CopyRequest", "copy"]

_ARCHIVES = (".tar", ".oci")


class CopyRequest(msgspec.Struct, frozen=True, kw_only=True):
    """`sources` are places as texts. With one of them `target` is a place; a `target` that ends in `/` is a
    prefix (a registry, or a directory of layouts): each image keeps its last path component and tag there.
    `platforms`: these only, none means all. `referrers`: what refers to the images goes along."""

    sources: tuple[str, ...]
    target: str
    platforms: tuple[Platform, ...] = ()
    referrers: bool = True


class Copied(msgspec.Struct, frozen=True):
    """One image that is at its target now."""

    names: tuple[str, ...]
    digest: str
    totals: Totals


def copy(
    request: CopyRequest,
    *,
    connect: Callable[[], Registry] = make_registry,
    root: str | None = None,
    on_event: EventSink | None = None,
    cancel: Cancel | None = None,
) -> list[Copied]:
    """Raises `UsageError`, `NoMatchingPlatform`, and what origins and targets raise. Images that were copied
    before an error stay; a copy that is repeated moves only what is not there yet."""
    is_prefix = request.target.endswith("/") and not request.target.endswith("://")
    if len(request.sources) > 1 and not is_prefix:
        raise UsageError(
            f"{len(request.sources)} images cannot all be {request.target!r}",
            hint="end the target with / to have each keep its name there",
        )
    places = [parse_place(text) for text in request.sources]
    targets = [
        _below(request.target, place) if is_prefix else parse_target(request.target) for place in places
    ]
    if len(set(map(str, targets))) != len(targets):
        raise UsageError("two of the images would have the same name at the target")
    with ExitStack() as stack:
        reader, writer = connect(), connect()
        stack.callback(reader.close)
        stack.callback(writer.close)
        result = []
        for place, target in zip(places, targets, strict=True):
            origin = open_origin(place, registry=reader, root=root, cancel=cancel)
            stack.callback(origin.close)
            with Meter(on_event, f"copying {origin.name} to {target}").running() as meter:
                result.append(_copy_one(origin, target, request, writer, root, meter, cancel))
        return result


def _copy_one(
    origin: Origin,
    place: Place,
    request: CopyRequest,
    writer: Registry,
    root: str | None,
    meter: Meter,
    cancel: Cancel | None,
) -> Copied:
    blob, descriptor = origin.root(), None
    if request.platforms:
        blob, descriptor = _chosen(origin, blob, request.platforms)
    descriptor = descriptor or blob.descriptor()
    if blob.media_type in media.INDEXES and not _holds_indexes(place):
        raise NoMatchingPlatform(
            f"{place}: it holds one platform, {origin.name} is an index",
            available=[str(p) for p in _platforms(blob)],
            hint="choose one with --platform",
        )
    target = open_target(place, writer, root, cancel)
    try:
        roots = [(descriptor, origin)]
        if blob.digest != origin.root().digest and blob.media_type in media.INDEXES:
            roots = [(entry, origin) for entry in decode(Index, blob.raw).manifests]
        totals = copy_all(
            roots, target, referrer_types=() if request.referrers else None, meter=meter, cancel=cancel
        )
        names = tuple(target.put_name(blob, descriptor))
    finally:
        target.close()
    for name in names:
        meter.said(f"writing {blob.digest} to {name}")
    return Copied(names, str(blob.digest), totals)


def _platforms(blob: Blob) -> list[Platform]:
    return [
        Platform.of_spec(entry.platform)
        for entry in decode(Index, blob.raw).manifests
        if entry.platform is not None and entry.platform.os != "unknown"
    ]


def _chosen(origin: Origin, blob: Blob, platforms: Sequence[Platform]) -> tuple[Blob, Descriptor | None]:
    """One platform of an index is its image itself; several are an index of them."""
    source = Source(blob.descriptor(), blob, origin)
    result = combine([source], prefer_index=False, platforms=platforms)
    if len(platforms) > 1 or result.blob.media_type not in media.INDEXES:
        return result.blob, None
    images = [
        entry for entry, _ in result.entries if entry.platform is not None and entry.platform.os != "unknown"
    ]
    if not images:
        raise NoMatchingPlatform("none of the manifests match the provided platforms")
    if len(images) > 1:
        return result.blob, None
    return origin.document(images[0]), images[0]


def _holds_indexes(place: Place) -> bool:
    if isinstance(place, EnginePlace):
        from anyarch.source.engines import find_engine

        return find_engine((place.engine,)).takes_indexes
    return not isinstance(place, ArchivePlace)


def parse_target(text: str) -> Place:
    """A place that is written to: a path that is not there yet is a layout. Raises `BadReference`,
    `UsageError`."""
    place = parse_place(text)
    if isinstance(place, Reference) and place.digest is not None:
        raise UsageError(f"{text}: a digest cannot be chosen", hint="name a tag")
    return place


def open_target(place: Place, writer: Registry, root: str | None, cancel: Cancel | None) -> Target:
    """What to write an image to. The caller closes it."""
    match place:
        case Reference():
            return RegistryTarget(writer, Reference(place.domain, place.path), [place.tag], cancel)
        case LayoutReference():
            if place.path.endswith(_ARCHIVES):
                from anyarch.imagetools.archive import TarTarget

                tags = [place.tag] if place.tag else []
                return TarTarget(place.path, (), tags=tags, docker=False, cancel=cancel)
            return LayoutTarget(place.path, [("", place.tag)] if place.tag else [], cancel=cancel)
        case ArchivePlace():
            from anyarch.imagetools.archive import ArchiveTarget

            return ArchiveTarget(place, cancel=cancel)
        case StorePlace():
            from anyarch.imagetools.local import StoreTarget, open_store

            return StoreTarget(open_store(root), [place.name], cancel)
        case EnginePlace():
            from anyarch.imagetools.archive import EngineTarget

            return EngineTarget(place, cancel=cancel)


def _below(prefix: str, place: Place) -> Place:
    """Where an image goes below a prefix, with the name it has."""
    if isinstance(place, Reference):
        name = place
    elif isinstance(place, (StorePlace, EnginePlace)) or (isinstance(place, ArchivePlace) and place.name):
        name = place.name  # type: ignore[assignment]  # the one without is excluded
    else:
        raise UsageError(f"{place}: it has no name to keep", hint="copy it by itself, to a full name")
    last = name.path.rpartition("/")[2]
    tag = name.tag or (name.digest.hex[:12] if name.digest else "latest")
    if prefix.startswith("oci-layout://"):
        return LayoutReference(f"{prefix.removeprefix('oci-layout://')}{last}", tag)
    scheme, separator, rest = prefix.partition("://")
    if separator and scheme in ("store", "docker-daemon", "podman", "containerd"):
        return parse_place(f"{scheme}://{rest}{last}:{tag}")
    return parse_place(f"{prefix}{last}:{tag}")
