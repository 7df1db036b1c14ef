"""From results to image documents: layers become blobs, blobs manifests, manifests an index.

Each layer is compressed once, however many platforms hold it. Everything is deterministic: manifests in the
order the platforms were asked for, documents encoded in one way, times from the layers or the given epoch.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec

from anyarch.archive.compression import Compression
from anyarch.errors import BuildError, StoreError
from anyarch.exporter.attestation import AssembledAttestations, Attestation, attach
from anyarch.exporter.timestamp import clamp, format_time
from anyarch.snapshot.forms import TOC_DIGEST, UNCOMPRESSED
from anyarch.snapshot.layers import Layer
from anyarch.spec import media
from anyarch.spec.oci import Blob, Descriptor, History, ImageConfig, Index, Manifest, RootFS, decode, encode
from anyarch.spec.platform import Platform

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from anyarch.snapshot.layers import LayerStore
    from anyarch.store.store import Store

    InlineCache = Callable[[Sequence[str], Sequence[str]], bytes]
    """Answers a member of the config's JSON object for a chain of layers (ids, and the digests of their
    blobs, "" for one without entries)."""

REWRITTEN = "buildkit/rewritten-timestamp"
_KEPT = (REWRITTEN, TOC_DIGEST, "io.containers.estargz.uncompressed-size")
"""What stays in a layer's descriptor: for runtimes that fetch lazily, and the time that bounds its files."""

__all__ = ["Annotations", "AssembledImage", "AssembledPlatform", "ImageOptions", "PlatformResult", "assemble"]


class PlatformResult(msgspec.Struct, frozen=True):
    """One platform of a build's result: its layers (ids, lowest first) and its config without layers and
    times. `base_config` is that of the image it was built on, if any."""

    platform: Platform
    layers: tuple[str, ...]
    config: bytes
    base_config: bytes = b""
    attestations: tuple[Attestation, ...] = ()


class Annotations(msgspec.Struct, frozen=True):
    """Annotations by level; those of manifests and their descriptors may be for one platform only (None:
    all)."""

    manifest: tuple[tuple[Platform | None, str, str], ...] = ()
    manifest_descriptor: tuple[tuple[Platform | None, str, str], ...] = ()
    index: tuple[tuple[str, str], ...] = ()
    index_descriptor: tuple[tuple[str, str], ...] = ()


class ImageOptions(msgspec.Struct, frozen=True):
    """How image documents are made. `epoch` (SOURCE_DATE_EPOCH, seconds) bounds all times that this build
    sets;
    with `rewrite_timestamp` those of files in new layers as well. `prefer_nondist_layers` keeps the media
    types and addresses of layers that are not for distribution (of Windows' base images); else they become
    ordinary ones."""

    compression: Compression
    force_compression: bool = False
    oci_media_types: bool = True
    epoch: int | None = None
    rewrite_timestamp: bool = False
    multi_platform: bool = False
    annotations: Annotations = Annotations()
    prefer_nondist_layers: bool = False
    names: tuple[str, ...] = ()
    """What attestations call the image."""
    oci_artifact: bool = False
    """Whether manifests of attestations are artifacts that name the image as their subject."""


class AssembledPlatform(msgspec.Struct, frozen=True):
    platform: Platform
    manifest: Blob
    config: Blob
    layers: tuple[Descriptor, ...]
    layer_ids: tuple[str, ...]
    descriptor: Descriptor

    @property
    def size(self) -> int:
        """Bytes of all layers, compressed."""
        return sum(layer.size for layer in self.layers)


class AssembledImage(msgspec.Struct, frozen=True):
    """An image ready to leave. `index` is None for a single manifest. All documents are in the content
    store; of the
    layers, those that came with a base image may still be remote only."""

    platforms: tuple[AssembledPlatform, ...]
    index: Blob | None
    descriptor: Descriptor
    attestations: tuple[AssembledAttestations, ...] = ()

    @property
    def root(self) -> Blob:
        return self.index or self.platforms[0].manifest

    def blob_digests(self) -> list[str]:
        """All that belongs to the image, sorted."""
        found: set[str] = set()
        for item in self.platforms:
            found.update(layer.digest for layer in item.layers)
            found.update((item.config.digest, item.manifest.digest))
        for extra in self.attestations:
            found.update(blob.digest for blob in (*extra.blobs, extra.manifest))
        found.add(self.root.digest)
        return sorted(found)

    def docker_parts(self) -> tuple[str, tuple[str, ...]]:
        """The digests of the config and of the layers of the first platform."""
        only = self.platforms[0]
        return only.config.digest, tuple(layer.digest for layer in only.layers)


def _pick(items: Sequence[tuple[Platform | None, str, str]], platform: Platform) -> dict[str, str] | None:
    return {key: value for wanted, key, value in items if wanted is None or wanted == platform} or None


async def assemble(
    store: Store,
    layers: LayerStore,
    results: Sequence[PlatformResult],
    options: ImageOptions,
    *,
    on_step: Callable[[str], None] = lambda text: None,
    inline: InlineCache | None = None,
    on_thread: Callable[..., Awaitable[_LayerBlob]] = asyncio.to_thread,
) -> AssembledImage:
    """Make and store all documents of an image. Layers are compressed by `on_thread(work, *args)`. Raises
    `NoSpace` and its kin."""
    if not results:
        raise BuildError("the build gave no result to export")
    _check_annotations(results, options)
    wanted = list(dict.fromkeys(layer for result in results for layer in result.layers))
    blobs = dict(
        zip(
            wanted,
            await asyncio.gather(*(on_thread(_layer_blob, store, layers, item, options) for item in wanted)),
            strict=True,
        )
    )
    on_step("exporting layers")
    platforms = []
    for result in results:
        platforms.append(_platform(store, result, blobs, options, inline))
        on_step(f"exporting manifest {platforms[-1].manifest.digest}")
        on_step(f"exporting config {platforms[-1].config.digest}")
    attestations = _attest(store, layers, results, platforms, options)
    for item in attestations:
        on_step(f"exporting attestation manifest {item.manifest.digest}")
    notes = options.annotations
    if len(platforms) == 1 and not options.multi_platform and not attestations:
        if notes.index or notes.index_descriptor:
            raise BuildError("index annotations not supported for single platform export")
        only = platforms[0]
        return AssembledImage((only,), None, only.descriptor)
    index = Index(
        schema_version=2,
        media_type=media.OCI_INDEX if options.oci_media_types else media.DOCKER_INDEX,
        manifests=(
            *(item.descriptor for item in platforms),
            *(item.descriptor for item in attestations),
        ),
        annotations=dict(notes.index) or None,
    )
    blob = Blob.of(index.media_type, encode(index))
    store.content.put(blob.raw)
    on_step(f"exporting manifest list {blob.digest}")
    descriptor = blob.descriptor(annotations=dict(notes.index_descriptor) or None)
    return AssembledImage(tuple(platforms), blob, descriptor, tuple(attestations))


def _attest(
    store: Store,
    layers: LayerStore,
    results: Sequence[PlatformResult],
    platforms: Sequence[AssembledPlatform],
    options: ImageOptions,
) -> list[AssembledAttestations]:
    """The manifests of attestations, of the platforms that have some."""
    if not any(result.attestations for result in results):
        return []
    from anyarch.exporter.sbom import supplemented
    from anyarch.spec.reference import Reference

    names = [Reference.parse(name) for name in options.names]
    return [
        attach(
            store.content,
            platform,
            [
                supplemented(
                    item,
                    layers,
                    [(one, blob.digest) for one, blob in zip(result.layers, platform.layers, strict=True)],
                )
                for item in result.attestations
            ],
            names,
            oci_media_types=options.oci_media_types,
            as_artifact=options.oci_artifact,
        )
        for result, platform in zip(results, platforms, strict=True)
        if result.attestations
    ]


def _check_annotations(results: Sequence[PlatformResult], options: ImageOptions) -> None:
    notes = options.annotations
    there = {result.platform for result in results}
    for platform, _, _ in (*notes.manifest, *notes.manifest_descriptor):
        if platform is not None and platform not in there:
            raise BuildError(
                f"invalid annotation: no platform {platform} found in source",
                hint=f"the build is for {', '.join(str(one) for one in sorted(there, key=str))}",
            )
    if not options.oci_media_types and (notes.index or notes.index_descriptor or notes.manifest_descriptor):
        raise BuildError(
            'cannot export annotations with "oci-mediatypes=false"',
            hint="Docker's media types know annotations of the manifest alone",
        )


class _LayerBlob(msgspec.Struct, frozen=True):
    layer: Layer
    diff_id: str
    descriptor: Descriptor


def _layer_blob(store: Store, layers: LayerStore, layer_id: str, options: ImageOptions) -> _LayerBlob:
    layer = layers.get(layer_id)
    rewritten = options.rewrite_timestamp and options.epoch is not None and not layers.is_base(layer)
    if rewritten and options.epoch is not None:
        layer = _rewritten(store, layers, layer, options.epoch)
    diff_id = layers.diff_id(layer)
    descriptor = layers.blob(layer, options.compression, force=options.force_compression)
    notes = dict(descriptor.annotations or {})
    if rewritten:
        notes[REWRITTEN] = str(options.epoch)
    convert = media.to_oci if options.oci_media_types else media.to_docker
    media_type = convert(descriptor.media_type)
    urls = descriptor.urls if options.prefer_nondist_layers else ()
    out = Descriptor(
        media_type if urls else media.to_distributable(media_type),
        descriptor.digest,
        descriptor.size,
        urls=urls,
        annotations={key: notes[key] for key in _KEPT if key in notes} or None,
    )
    return _LayerBlob(layer, notes.get(UNCOMPRESSED, diff_id), out)


def _rewritten(store: Store, layers: LayerStore, layer: Layer, epoch: int) -> Layer:
    """The layer with no time after `epoch`; made once."""
    key = f"{layer.id}:{epoch}"
    known = store.cache.get_value("rewrite-timestamp", key)
    if known is not None:
        try:
            return layers.get(known.decode())
        except StoreError:
            store.cache.delete_value("rewrite-timestamp", key)
    limit = epoch * 1_000_000_000
    with layers.new_tar(description=f"{layer.id} with times up to {epoch}") as out:
        for entry in layers.index(layer):
            if entry.mtime_ns > limit:
                changed = msgspec.structs.replace(entry, mtime_ns=limit, offset=-1)
            else:
                changed = msgspec.structs.replace(entry, offset=-1)
            if entry.size:
                with layers.open_file(layer, entry) as stream:
                    out.add(changed, stream)
            else:
                out.add(changed, b"" if entry.digest else None)
        result = out.commit()
    store.cache.set_value("rewrite-timestamp", key, result.id.encode())
    return result


def _platform(
    store: Store,
    result: PlatformResult,
    blobs: dict[str, _LayerBlob],
    options: ImageOptions,
    inline: InlineCache | None = None,
) -> AssembledPlatform:
    config = decode(ImageConfig, result.config)
    chain = [blobs[layer] for layer in result.layers]
    history = _history(config.history or (), chain)
    if options.epoch is not None:
        base = decode(ImageConfig, result.base_config).history if result.base_config else None
        history = _clamped(history, base or (), options.epoch)
    # A client's own config may have a time; a Dockerfile's has none.
    created = config.created or next((item.created for item in reversed(history) if item.created), None)
    if options.epoch is not None:
        created = clamp(created, options.epoch)
    config = msgspec.structs.replace(
        config,
        created=created,
        rootfs=RootFS(diff_ids=tuple(item.diff_id for item in chain)),
        history=tuple(history),
    )
    oci = options.oci_media_types
    raw = encode(config)
    if inline is not None:
        digests = [item.descriptor.digest for item in chain]
        raw = raw[:-1] + b"," + inline(result.layers, digests) + b"}"
    config_blob = Blob.of(media.OCI_CONFIG if oci else media.DOCKER_CONFIG, raw)
    notes = options.annotations
    manifest = Manifest(
        schema_version=2,
        media_type=media.OCI_MANIFEST if oci else media.DOCKER_MANIFEST,
        config=config_blob.descriptor(),
        layers=tuple(item.descriptor for item in chain),
        annotations=_pick(notes.manifest, result.platform),
    )
    blob = Blob.of(manifest.media_type, encode(manifest))
    store.content.put(config_blob.raw)
    store.content.put(blob.raw)
    descriptor = blob.descriptor(
        platform=result.platform.spec(), annotations=_pick(notes.manifest_descriptor, result.platform)
    )
    return AssembledPlatform(
        result.platform,
        blob,
        config_blob,
        manifest.layers,
        tuple(item.layer.id for item in chain),
        descriptor,
    )


def _history(history: Sequence[History], chain: Sequence[_LayerBlob]) -> list[History]:
    """One entry a step, each with a time, as BuildKit gives them: steps that only change the config have
    the time of the first layer that this build made, those after a layer that layer's."""
    positions = [n for n, item in enumerate(history) if not item.empty_layer]
    entries = list(history)
    if len(positions) < len(chain):
        # Layers that no entry accounts for (a client's own graph on a base's config, merged trees).
        lacking = len(chain) - len(positions)
        entries += [History(comment="buildkit.exporter.image.v0") for _ in range(lacking)]
    elif len(positions) > len(chain):
        raise BuildError(f"image has {len(chain)} layers, but its history names {len(positions)}")
    layers = iter(chain)
    for position, item in enumerate(entries):
        if not item.empty_layer:
            blob = next(layers)
            if item.created is None:
                made = format_time(blob.layer.created_at)
                entries[position] = msgspec.structs.replace(item, created=made)
    created = _first_new_time(entries)
    is_new = False
    for position, item in enumerate(entries):
        if item.created is None:
            is_new = True
            entries[position] = msgspec.structs.replace(item, created=created)
        elif is_new:
            created = item.created
    return entries


def _first_new_time(entries: Sequence[History]) -> str | None:
    """The time of the first layer after an entry without one; else the last time there is."""
    created: str | None = None
    is_new = False
    for item in entries:
        if item.created is None:
            is_new = True
            continue
        created = item.created
        if is_new:
            break
    return created


def _clamped(history: Sequence[History], base: Sequence[History], epoch: int) -> list[History]:
    """No time after `epoch`, but for what was inherited from the base image, which stays what it is."""
    inherited = 0
    for item, old in zip(history, base, strict=False):
        if item != old:
            break
        inherited += 1
    return [
        item if n < inherited else msgspec.structs.replace(item, created=clamp(item.created, epoch))
        for n, item in enumerate(history)
    ]
