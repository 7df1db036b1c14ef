"""`merge`: parts that were built apart become one index, in a tag, a layout or the store."""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import TYPE_CHECKING

import msgspec

from anyarch.errors import InvalidDigest, UnsupportedMedia, UsageError
from anyarch.imagetools.combine import Annotation, Source, with_platform
from anyarch.imagetools.layout import LayoutReference, read_oci_layout
from anyarch.imagetools.origin import LayoutOrigin, Origin, make_registry, open_origin
from anyarch.imagetools.parts import Group, check_platforms, groups_of, join_notes, make_index, platform_name
from anyarch.imagetools.places import parse_place
from anyarch.imagetools.tagmerge import Change, merge_into_tag
from anyarch.imagetools.target import LayoutTarget, RegistryTarget
from anyarch.imagetools.transfer import SIGNATURES, Meter, copy_all, in_parallel
from anyarch.spec import media
from anyarch.spec.codec import json_decoder
from anyarch.spec.digest import Digest
from anyarch.spec.oci import Blob, Descriptor, Index, decode
from anyarch.spec.platform import Platform
from anyarch.spec.reference import Reference

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from anyarch.http.cancel import Cancel
    from anyarch.imagetools.target import Target
    from anyarch.registry.client import Registry
    from anyarch.solver.events import EventSink

__all__ = ["PARTS", "MergeRequest", "Merged", "merge"]

PARTS = "parts"
"""The directory of a layout in which each part has a record (see `exporter.part`)."""


class MergeRequest(msgspec.Struct, frozen=True, kw_only=True):
    """`sources` are parts: directories, layouts, references, store names. `tags` are where the index goes;
    with `push` to registries, else to the store, and layouts in any case; `output` is a directory for a
    layout. `platforms` choose platforms and their order. `only`: nothing of what a tag names stays;
    `remove`: platforms to take out of the tag; `keep_s`: how long published parts are kept beside it."""

    sources: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    output: str = ""
    push: bool = False
    platforms: tuple[Platform, ...] = ()
    annotations: tuple[Annotation, ...] = ()
    remove: tuple[Platform, ...] = ()
    only: bool = False
    keep_s: float = 3600.0


class Merged(msgspec.Struct, frozen=True):
    """The index that was made of the sources, and what names it has now. In a tag that had more, or that
    others write, the index is another one: `tags` tell the digest for each."""

    blob: Blob
    platforms: tuple[str, ...]
    tags: dict[str, str]


class _Record(msgspec.Struct, frozen=True):
    descriptor: Descriptor


class _Input(msgspec.Struct, frozen=True):
    groups: tuple[Group, ...]
    notes: dict[str, str]
    origin: Origin


def merge(
    request: MergeRequest,
    *,
    connect: Callable[[], Registry] = make_registry,
    root: str | None = None,
    on_event: EventSink | None = None,
    cancel: Cancel | None = None,
) -> Merged:
    """Raises `UsageError` for two different images of one platform, and what origins and targets raise."""
    _check(request)
    with ExitStack() as stack:
        reader, writer = connect(), connect()
        stack.callback(reader.close)
        stack.callback(writer.close)
        inputs = _inputs(request.sources, reader, root, stack, cancel)
        groups, notes, origins = _joined(inputs, request)
        order = [platform.format_all() for platform in request.platforms]
        blob = make_index(groups, notes, order)
        done: dict[str, str] = {}
        entries = [(entry, origins[entry.digest]) for g in groups for entry in (g.image, *g.attestations)]
        for target, ref in _targets(request, writer, root, stack, cancel):
            with Meter(on_event, f"merging into {target.name}").running() as meter:
                copy_all(entries, target, referrer_types=SIGNATURES, meter=meter, cancel=cancel)
                if ref is None:
                    names = target.put_name(blob, blob.descriptor())
                    done |= dict.fromkeys(names, str(blob.digest))
                    for name in names:
                        meter.said(f"writing {blob.digest} to {name}")
                    continue
                change = Change(
                    tuple(groups),
                    tuple(platform.format_all() for platform in request.remove),
                    notes,
                    request.only,
                )
                change = _with_annotated(change, request, writer, ref, cancel)
                written = merge_into_tag(
                    writer,
                    ref,
                    change,
                    order=order,
                    keep_s=request.keep_s,
                    on_step=meter.said,
                    cancel=cancel,
                )
                done[str(ref)] = str(written.digest)
        return Merged(blob, tuple(g.platform for g in groups if g.platform), done)


def _check(request: MergeRequest) -> None:
    changes_tag = bool(request.remove or request.annotations)
    if not request.sources and not changes_tag:
        raise UsageError("no parts to merge", hint="name directories, layouts or references")
    if not request.tags and not request.output:
        raise UsageError("no name for the result", hint="give --tag NAME, or --output DIR")
    if not request.sources and not request.push:
        raise UsageError(
            "without parts there is only an index of a registry to change", hint="add --push to do that"
        )
    if request.remove and not request.push:
        raise UsageError("--remove takes platforms out of what a registry has", hint="add --push to do that")
    if request.only and not request.push:
        raise UsageError("--only is about what a tag of a registry names", hint="add --push, or leave it out")
    for note in request.annotations:
        if note.kind not in ("index", "manifest-descriptor"):
            raise UsageError(
                f'"{note.kind}" annotations cannot be added: manifests stay as they are',
                hint=f"write index:{note.key}=… or manifest-descriptor:{note.key}=…",
            )


# what goes in ------------------------------------------------------------------------------------------


def _inputs(
    texts: Sequence[str], reader: Registry, root: str | None, stack: ExitStack, cancel: Cancel | None
) -> list[_Input]:
    origins: list[Origin] = []
    for text in texts:
        place = parse_place(text)
        records = _records(place) if isinstance(place, LayoutReference) else []
        if records:
            assert isinstance(place, LayoutReference)
            for record in records:
                found = LayoutReference(place.path, "", record)
                origins.append(LayoutOrigin(read_oci_layout(place.path), found))
                stack.callback(origins[-1].close)
        else:
            origins.append(open_origin(place, registry=reader, root=root, cancel=cancel))
            stack.callback(origins[-1].close)
    return in_parallel(_input, origins)


def _records(place: LayoutReference) -> list[Digest]:
    """The parts in a directory that says which it has; none when one image of it is asked for by name."""
    directory = os.path.join(place.path, PARTS)
    if place.digest is not None or place.tag not in ("", "latest") or not os.path.isdir(directory):
        return []
    found = []
    for name in sorted(os.listdir(directory)):
        if name.endswith(".json"):
            path = os.path.join(directory, name)
            try:
                with open(path, "rb") as file:
                    found.append(Digest.parse(json_decoder(_Record).decode(file.read()).descriptor.digest))
            except (OSError, msgspec.DecodeError, msgspec.ValidationError, InvalidDigest) as error:
                raise UsageError(f"{path}: it is no record of a part: {error}") from None
    return found


def _input(origin: Origin) -> _Input:
    blob = origin.root()
    if blob.media_type in media.INDEXES:
        index = decode(Index, blob.raw)
        entries = index.manifests
        notes = dict(index.annotations or {})
    elif blob.media_type in media.MANIFESTS:
        entries, notes = (blob.descriptor(),), {}
    else:
        raise UnsupportedMedia(f"{origin.name}: {blob.media_type} is no image")
    groups = []
    for group in groups_of(entries):
        image = group.image
        if not group.platform and image.media_type in media.MANIFESTS:
            image = with_platform(Source(image, origin.document(image), origin)).descriptor
        elif image.media_type in media.INDEXES:
            raise UnsupportedMedia(
                f"{origin.name}: it has indexes within an index", hint="merge the inner ones by their digests"
            )
        groups.append(Group(platform_name(image), image, group.attestations))
    return _Input(tuple(groups), notes, origin)


def _joined(
    inputs: Sequence[_Input], request: MergeRequest
) -> tuple[list[Group], dict[str, str], dict[str, Origin]]:
    origins: dict[str, Origin] = {}
    for item in inputs:
        for group in item.groups:
            for entry in (group.image, *group.attestations):
                origins.setdefault(entry.digest, item.origin)
    named = {digest: origin.name for digest, origin in origins.items()}
    groups = check_platforms([group for item in inputs for group in item.groups], named)
    if request.platforms and inputs:
        wanted = {platform.format_all() for platform in request.platforms}
        known = {group.platform for group in groups}
        if lacking := sorted(wanted - known):
            raise UsageError(
                f"no part is for {', '.join(lacking)}", hint=f"the parts are for {', '.join(sorted(known))}"
            )
        groups = [group for group in groups if group.platform in wanted]
    own = {note.key: note.value for note in request.annotations if note.kind == "index"}
    others = [
        (i.origin.name, {key: value for key, value in i.notes.items() if key not in own}) for i in inputs
    ]
    notes = {**join_notes(others), **own}
    return [_annotated(group, request.annotations) for group in groups], notes, origins


def _annotated(group: Group, annotations: Sequence[Annotation]) -> Group:
    notes = dict(group.image.annotations or {})
    for note in annotations:
        fits = note.platform is None or note.platform.format_all() == group.platform
        if note.kind == "manifest-descriptor" and fits:
            notes[note.key] = note.value
    return msgspec.structs.replace(
        group, image=msgspec.structs.replace(group.image, annotations=notes or None)
    )


def _with_annotated(
    change: Change, request: MergeRequest, writer: Registry, ref: Reference, cancel: Cancel | None
) -> Change:
    """Annotations of entries that the tag has already are changes of these entries."""
    wanted = [note for note in request.annotations if note.kind == "manifest-descriptor"]
    if not wanted or request.sources:
        return change
    blob = writer.manifest(ref, cancel=cancel)
    if blob.media_type not in media.INDEXES:
        raise UsageError(f"{ref}: it names a single image, which has no entries to annotate")
    groups = []
    for group in groups_of(decode(Index, blob.raw).manifests):
        changed = _annotated(group, wanted)
        if changed != group:
            groups.append(changed)
    if not groups:
        raise UsageError(f"{ref}: it has no entry for the annotations given")
    return msgspec.structs.replace(change, groups=tuple(groups))


# where it goes -----------------------------------------------------------------------------------------


def _targets(
    request: MergeRequest, writer: Registry, root: str | None, stack: ExitStack, cancel: Cancel | None
) -> list[tuple[Target, Reference | None]]:
    """Targets; those of registries with the tag that is merged into."""
    result: list[tuple[Target, Reference | None]] = []
    references: list[Reference] = []
    layouts: dict[str, list[tuple[str, str]]] = {}
    for text in request.tags:
        place = parse_place(text)
        if isinstance(place, LayoutReference):
            layouts.setdefault(place.path, []).append(("", place.tag or "latest"))
        elif isinstance(place, Reference):
            if place.digest is not None:
                raise UsageError(f"--tag {text}: a digest cannot be chosen")
            references.append(place)
        else:
            raise UsageError(f"--tag {text}: it is neither a reference nor an OCI layout")
    if request.output:
        layouts.setdefault(request.output, []).extend(
            [(str(ref), ref.tag) for ref in references] or [("", "")]
        )
    for path, names in layouts.items():
        result.append((LayoutTarget(path, names, cancel=cancel), None))
    if references and request.push:
        for ref in references:
            repository = Reference(ref.domain, ref.path)
            result.append((RegistryTarget(writer, repository, (), cancel), ref))
    elif references and not request.output:
        from anyarch.imagetools.local import StoreTarget, open_store

        store = StoreTarget(open_store(root), references, cancel)
        stack.callback(store.close)
        result.append((store, None))
    return result
