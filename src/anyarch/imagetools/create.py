"""`imagetools create`: one image out of others, in registries and layouts."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import msgspec

from anyarch.errors import BadReference, InvalidDigest, UsageError
from anyarch.imagetools.combine import Annotation, Source, combine
from anyarch.imagetools.layout import LayoutReference
from anyarch.imagetools.origin import make_registry, open_origin
from anyarch.imagetools.places import parse_place
from anyarch.imagetools.target import LayoutTarget, RegistryTarget
from anyarch.imagetools.transfer import SIGNATURES, Meter, copy_all, in_parallel
from anyarch.spec.codec import json_decoder
from anyarch.spec.digest import Digest
from anyarch.spec.oci import Descriptor, PlatformSpec
from anyarch.spec.platform import Platform
from anyarch.spec.reference import Reference

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from anyarch.http.cancel import Cancel
    from anyarch.imagetools.combine import Combined
    from anyarch.imagetools.places import Place
    from anyarch.imagetools.target import Target
    from anyarch.registry.client import Registry
    from anyarch.solver.events import EventSink

__all__ = ["CreateRequest", "create"]

_VALID = "valid sources are digests, references and descriptors"


class CreateRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What `imagetools create` is asked for. `sources` are texts: references, digests, descriptors as JSON,
    layouts; those of files come first. `tags` are references and layouts."""

    sources: tuple[str, ...]
    tags: tuple[str, ...] = ()
    annotations: tuple[Annotation, ...] = ()
    platforms: tuple[Platform, ...] = ()
    append: bool = False
    prefer_index: bool = True
    dry_run: bool = False


class _Head(msgspec.Struct, frozen=True, rename="camel"):
    schema_version: int = 0


def create(
    request: CreateRequest,
    *,
    connect: Callable[[], Registry] = make_registry,
    on_event: EventSink | None = None,
    cancel: Cancel | None = None,
) -> Combined:
    """Make the image, and unless it is a dry run copy what it needs and write the tags.

    `connect` makes a registry client; reading and writing have one each, since a copy holds a connection of
    both. Raises `UsageError`, `BadReference`, and what registries and layouts raise.
    """
    if not request.sources and not request.append:
        raise UsageError("no sources specified")
    if not request.dry_run and not request.tags:
        raise UsageError("can't push with no tags specified, please set --tag or --dry-run")
    tags = [_tag(text) for text in request.tags]
    texts = list(request.sources)
    if request.append and tags:
        texts.insert(0, request.tags[0])
    with ExitStack() as stack:
        reader, writer = connect(), connect()
        stack.callback(reader.close)
        stack.callback(writer.close)
        sources = _sources(texts, tags, reader, stack, cancel)
        result = combine(
            sources,
            annotations=request.annotations,
            prefer_index=request.prefer_index,
            platforms=request.platforms,
        )
        if request.dry_run:
            return result
        groups: dict[str, list[Place]] = {}
        for tag in tags:
            groups.setdefault(tag.name if isinstance(tag, Reference) else f"//{tag.path}", []).append(tag)
        for places in groups.values():
            _publish(result, _target(places, writer, cancel), on_event, cancel)
        return result


def _publish(result: Combined, target: Target, emit: EventSink | None, cancel: Cancel | None) -> None:
    with Meter(emit, f"pushing {target.name}").running() as meter:
        for descriptor, origin in result.entries:
            meter.said(f"copying {descriptor.digest} from {origin.name} to {target.name}")
        copy_all(result.entries, target, referrer_types=SIGNATURES, meter=meter, cancel=cancel)
        for name in target.put_name(result.blob, result.descriptor):
            meter.said(f"pushing {result.blob.digest} to {name}")


def _tag(text: str) -> Reference | LayoutReference:
    place = parse_place(text)
    if isinstance(place, LayoutReference):
        return place
    if not isinstance(place, Reference):
        raise UsageError(f"--tag {text}: it is neither a reference nor an OCI layout")
    return place


def _target(places: Sequence[Place], writer: Registry, cancel: Cancel | None) -> Target:
    first = places[0]
    if isinstance(first, LayoutReference):
        tags = [place.tag or "latest" for place in places if isinstance(place, LayoutReference)]
        return LayoutTarget(first.path, [("", tag) for tag in tags], cancel=cancel)
    references = [place for place in places if isinstance(place, Reference)]
    repository = Reference(references[0].domain, references[0].path)
    return RegistryTarget(writer, repository, [place.tag for place in references], cancel)


def _sources(
    texts: Sequence[str],
    tags: Sequence[Reference | LayoutReference],
    reader: Registry,
    stack: ExitStack,
    cancel: Cancel | None,
) -> list[Source]:
    parsed = [_parse(text) for text in texts]
    repositories = {
        _repository(place) for place in [*(place for place, _ in parsed if place is not None), *tags]
    }
    default: Reference | LayoutReference | None = None
    if len(repositories) == 1:
        default = next((place for place, _ in parsed if place is not None), tags[0] if tags else None)

    def resolve(item: tuple[str, tuple[Reference | LayoutReference | None, Descriptor | None]]) -> Source:
        text, (place, descriptor) = item
        if place is None:
            if default is None:
                what = "multiple repositories" if repositories else "no repositories"
                raise UsageError(
                    f"{what} specified, cannot infer repository for {text!r}",
                    hint="write the whole reference: REPOSITORY@DIGEST",
                )
            assert descriptor is not None
            place = _with_digest(default, Digest.parse(descriptor.digest))
        origin = open_origin(place, registry=reader, cancel=cancel)
        stack.callback(origin.close)
        blob = origin.root()
        found = blob.descriptor()
        return Source(found if descriptor is None else _merged(found, descriptor), blob, origin)

    return in_parallel(resolve, list(zip(texts, parsed, strict=True)))


def _repository(place: Reference | LayoutReference) -> str:
    return place.name if isinstance(place, Reference) else f"//{place.path}"


def _with_digest(place: Reference | LayoutReference, digest: Digest) -> Reference | LayoutReference:
    if isinstance(place, Reference):
        return place.with_digest(digest)
    return LayoutReference(place.path, "", digest)


def _parse(text: str) -> tuple[Reference | LayoutReference | None, Descriptor | None]:
    """The place of a source, or the descriptor of one whose repository is to be inferred."""
    stripped = text.strip()
    if stripped.startswith("{"):
        return None, _descriptor(stripped)
    if stripped.startswith("sha256:"):
        try:
            return None, Descriptor("", Digest.parse(stripped), 0)
        except InvalidDigest as error:
            raise UsageError(f"failed to parse source {text!r}, {_VALID}: {error.message}") from None
    try:
        place = parse_place(stripped)
    except BadReference as error:
        raise BadReference(f"failed to parse source {text!r}, {_VALID}: {error.message}") from None
    if not isinstance(place, (Reference, LayoutReference)):
        raise UsageError(f"failed to parse source {text!r}, {_VALID}")
    return place, None


def _descriptor(text: str) -> Descriptor:
    try:
        head = json_decoder(_Head).decode(text.encode())
        if head.schema_version:
            raise UsageError(
                "expected an OCI content descriptor, got a manifest or index "
                f"(schemaVersion {head.schema_version})"
            )
        found = json_decoder(_Loose).decode(text.encode())
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise UsageError(f"failed to parse source {text!r}, {_VALID}: {error}") from None
    if not found.digest:
        raise UsageError("invalid descriptor: digest is required")
    try:
        Digest.parse(found.digest)
    except InvalidDigest as error:
        raise UsageError(f"invalid descriptor digest: {error.message}") from None
    return Descriptor(
        found.media_type, found.digest, found.size, annotations=found.annotations, platform=found.platform
    )


class _Loose(msgspec.Struct, frozen=True, rename="camel"):
    """A descriptor of which only the digest has to be there."""

    media_type: str = ""
    digest: str = ""
    size: int = 0
    annotations: dict[str, str] | None = None
    platform: PlatformSpec | None = None


def _merged(found: Descriptor, given: Descriptor) -> Descriptor:
    """What the registry says, with what the user's descriptor says of it: annotations replace, so that they
    can be removed; a platform is completed from the configuration later."""
    if given.size and given.size != found.size:
        raise UsageError(f"invalid size mismatch for {found.digest}, {given.size} != {found.size}")
    return msgspec.structs.replace(
        found,
        media_type=given.media_type or found.media_type,
        annotations=given.annotations or found.annotations,
        platform=given.platform or found.platform,
    )
