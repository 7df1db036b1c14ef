"""How images become one index: the rules of `imagetools create`.

Indexes among the sources are taken apart; a manifest that is met twice is one entry, with the annotations of
both; entries without a platform get it from their configuration. If all entries are of Docker's media types
the result is a manifest list, else an OCI index. One index alone, with nothing to change, stays the bytes it
is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from anyarch.errors import NoMatchingPlatform, UnsupportedMedia, UsageError
from anyarch.imagetools.origin import Origin
from anyarch.imagetools.transfer import in_parallel
from anyarch.spec import media
from anyarch.spec.digest import Digest
from anyarch.spec.intoto import ARTIFACT_TYPE, MANIFEST_KIND, REFERENCE_DIGEST, REFERENCE_TYPE
from anyarch.spec.oci import Blob, Descriptor, Index, Manifest, PlatformSpec, decode, encode
from anyarch.spec.platform import Platform

if TYPE_CHECKING:
    from collections.abc import Sequence


__all__ = ["Annotation", "Combined", "Source", "combine", "go_json", "with_platform"]


class Annotation(msgspec.Struct, frozen=True):
    """`kind` is manifest, manifest-descriptor, index or index-descriptor; `platform` None means all."""

    key: str
    value: str
    kind: str = "manifest"
    platform: Platform | None = None


class Source(msgspec.Struct, frozen=True):
    """One image that goes in: its descriptor (which may say more than the document: a platform,
    annotations), the document, and where all of it is."""

    descriptor: Descriptor
    blob: Blob
    origin: Origin


class Combined(msgspec.Struct, frozen=True):
    """The result. `entries` are the documents that it leads to, with where each of them is; for one manifest
    that is copied as it is, that manifest itself. `warnings` are lines for people."""

    blob: Blob
    descriptor: Descriptor
    entries: tuple[tuple[Descriptor, Origin], ...]
    warnings: tuple[str, ...] = ()


def go_json(index: Index) -> bytes:
    """The bytes that Go's tools write for an index, so that the same parts have the same digest whoever
    joins them: two spaces a level, and `<`, `>`, `&` in strings escaped."""
    text = msgspec.json.format(encode(index), indent=2)
    for plain in ("<", ">", "&", "\u2028", "\u2029"):
        text = text.replace(plain.encode(), f"\\u{ord(plain):04x}".encode())
    return text


def combine(
    sources: Sequence[Source],
    *,
    annotations: Sequence[Annotation] = (),
    prefer_index: bool = True,
    platforms: Sequence[Platform] = (),
) -> Combined:
    """Raises `UsageError`, `UnsupportedMedia`, `NoMatchingPlatform`, and what origins raise."""
    sources = in_parallel(with_platform, sources)
    where = {source.descriptor.digest: source.origin for source in sources}
    warnings: list[str] = []
    only = sources[0]
    if len(sources) == 1 and not annotations and only.blob.media_type in media.INDEXES:
        blob, descriptor = only.blob, only.descriptor
        where |= {entry.digest: only.origin for entry in decode(Index, blob.raw).manifests}
    elif len(sources) == 1 and not annotations and not prefer_index:
        return _single(only, platforms)
    else:
        blob = _join(sources, annotations, where, warnings)
        descriptor = blob.descriptor()
    return _filtered(blob, descriptor, platforms, where, warnings)


def with_platform(source: Source) -> Source:
    """A source of which the descriptor has a platform, from the image's configuration where it lacks one."""
    if source.blob.media_type not in media.MANIFESTS:
        if source.blob.media_type not in media.INDEXES:
            raise UnsupportedMedia(f"{source.origin.name}: {source.blob.media_type} is no image")
        return source
    spec = source.descriptor.platform or PlatformSpec()
    if spec.os and spec.architecture:
        return source
    manifest = decode(Manifest, source.blob.raw)
    found = _configured_platform(source.origin, manifest)
    if not spec.architecture:
        variant = spec.variant or found.variant
        spec = msgspec.structs.replace(spec, architecture=found.architecture, variant=variant)
    spec = msgspec.structs.replace(spec, os=spec.os or found.os)
    return msgspec.structs.replace(
        source, descriptor=msgspec.structs.replace(source.descriptor, platform=spec)
    )


def _configured_platform(origin: Origin, manifest: Manifest) -> PlatformSpec:
    if manifest.config.media_type not in media.CONFIGS:
        return PlatformSpec()  # an artifact: it is for no platform
    spec = decode(PlatformSpec, origin.read(manifest.config))
    return Platform.make(spec.os, spec.architecture, spec.variant).spec() if spec.architecture else spec


def _single(source: Source, platforms: Sequence[Platform]) -> Combined:
    spec = source.descriptor.platform
    if platforms and not (spec is not None and _fits(spec, platforms)):
        shown = Platform.of_spec(spec) if spec is not None else "unknown"
        raise NoMatchingPlatform(
            f"input platform {shown} does not match any of the provided platforms", available=[str(shown)]
        )
    entry = (source.descriptor, source.origin)
    return Combined(source.blob, source.descriptor, (entry,))


def _join(
    sources: Sequence[Source],
    annotations: Sequence[Annotation],
    where: dict[str, Origin],
    warnings: list[str],
) -> Blob:
    entries: dict[str, Descriptor] = {}

    def add(descriptor: Descriptor, origin: Origin) -> None:
        old = entries.get(descriptor.digest)
        if old is not None:
            descriptor = msgspec.structs.replace(
                old,
                media_type=old.media_type or descriptor.media_type,
                platform=descriptor.platform or old.platform,
                annotations={**(old.annotations or {}), **(descriptor.annotations or {})} or None,
            )
        entries[descriptor.digest] = descriptor
        where[descriptor.digest] = origin

    for source in sources:
        if source.blob.media_type in media.INDEXES:
            for entry in decode(Index, source.blob.raw).manifests:
                add(entry, source.origin)
        else:
            add(source.descriptor, source.origin)
    found = list(entries.values())
    is_docker = all(entry.media_type.startswith("application/vnd.docker.") for entry in found)
    index_notes: dict[str, str] = {}
    for note in annotations:
        if note.kind == "index-descriptor":
            raise UsageError(f'"{note.kind}" annotations are invalid while creating an image')
        if note.kind not in ("index", "manifest-descriptor"):
            raise UsageError(
                f'"{note.kind}" annotations are not supported yet',
                hint=f"manifests stay as they are; write index:{note.key} or manifest-descriptor:{note.key}",
            )
    if is_docker and annotations:
        warnings.append(
            "annotations are left out: Docker's media types, of which all manifests are, have none"
        )
    elif annotations:
        index_notes = {note.key: note.value for note in annotations if note.kind == "index"}
        found = [_annotated(entry, annotations) for entry in found]
    kind = media.DOCKER_INDEX if is_docker else media.OCI_INDEX
    index = Index(schema_version=2, media_type=kind, manifests=tuple(found), annotations=index_notes or None)
    return Blob.of(kind, go_json(index))


def _annotated(entry: Descriptor, annotations: Sequence[Annotation]) -> Descriptor:
    notes = dict(entry.annotations or {})
    for note in annotations:
        spec = entry.platform
        fits = note.platform is None or (spec is not None and _fits(spec, [note.platform]))
        if note.kind == "manifest-descriptor" and fits:
            notes[note.key] = note.value
    return msgspec.structs.replace(entry, annotations=notes or None)


def _fits(spec: PlatformSpec, platforms: Sequence[Platform]) -> bool:
    """As containerd's exact matcher: the same after normalisation; a version of the OS counts where it is
    asked for."""
    found = Platform.make(spec.os, spec.architecture, spec.variant)
    return any(
        (found.os, found.architecture, found.variant) == (wanted.os, wanted.architecture, wanted.variant)
        and (not wanted.os_version or spec.os_version.startswith(wanted.os_version))
        for wanted in platforms
    )


def _filtered(
    blob: Blob,
    descriptor: Descriptor,
    platforms: Sequence[Platform],
    where: dict[str, Origin],
    warnings: list[str],
) -> Combined:
    index = decode(Index, blob.raw)
    by_digest = {entry.digest: entry for entry in index.manifests}

    def is_wanted(entry: Descriptor) -> bool:
        return not platforms or entry.platform is None or _fits(entry.platform, platforms)

    def subject_of(entry: Descriptor) -> Descriptor | None:
        notes = entry.annotations or {}
        return by_digest.get(notes.get(REFERENCE_DIGEST, "")) if REFERENCE_TYPE in notes else None

    kept = []
    described = set()
    for entry in index.manifests:
        subject = subject_of(entry)
        if is_wanted(entry) or (subject is not None and is_wanted(subject)):
            kept.append(entry)
            if subject is not None:
                described.add(subject.digest)
    if not kept:
        raise NoMatchingPlatform(
            "none of the manifests match the provided platforms",
            available=[str(Platform.of_spec(e.platform)) for e in index.manifests if e.platform],
        )
    lacking = [e for e in kept if e.digest not in described and subject_of(e) is None and _is_image(e)]
    added = [entry for entry in in_parallel(lambda e: _attestation(e, where), lacking) if entry is not None]
    for entry in added:
        where[entry.digest] = where[(entry.annotations or {})[REFERENCE_DIGEST]]
    kept += [entry for entry in added if entry.digest not in by_digest]
    if len(kept) != len(index.manifests) or added:
        changed = msgspec.structs.replace(index, manifests=tuple(kept))
        blob = Blob.of(blob.media_type, go_json(changed))
        descriptor = blob.descriptor(annotations=descriptor.annotations)
    entries = tuple((entry, where[entry.digest]) for entry in kept)
    return Combined(blob, descriptor, entries, tuple(warnings))


def _is_image(entry: Descriptor) -> bool:
    return entry.media_type in media.MANIFESTS and REFERENCE_TYPE not in (entry.annotations or {})


def _attestation(entry: Descriptor, where: dict[str, Origin]) -> Descriptor | None:
    """An attestation that the registry lists as a referrer, as an entry of the index."""
    found = where[entry.digest].referrers(Digest.parse(entry.digest), (ARTIFACT_TYPE,))
    if not found:
        return None
    notes = {
        **(found[0].annotations or {}),
        REFERENCE_TYPE: MANIFEST_KIND,
        REFERENCE_DIGEST: entry.digest,
    }
    return msgspec.structs.replace(
        found[0],
        artifact_type="",
        annotations=notes,
        platform=PlatformSpec(os="unknown", architecture="unknown"),
    )
