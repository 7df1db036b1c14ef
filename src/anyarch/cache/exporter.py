"""Writing a build cache: what a solver knows, as a cache config and layers, to a registry or a directory."""

from __future__ import annotations

import asyncio
import os
import threading
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from anyarch.archive.compression import Compression
from anyarch.cache.config import (
    BASE,
    CACHE_CONFIG,
    CREATED_AT,
    UNCOMPRESSED,
    KeyedResult,
    write,
)
from anyarch.errors import CacheError
from anyarch.spec import media
from anyarch.spec.digest import Digest
from anyarch.spec.oci import Blob, Descriptor, Index, Manifest, decode, encode
from anyarch.spec.timestamp import format_time
from anyarch.store.failure import disk_errors
from anyarch.worker.result import SnapshotResult
from anyarch.worker.transfer import push_blob

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from anyarch.cache.config import (
        CacheConfig,
    )
    from anyarch.solver.solved import Solved
    from anyarch.spec.reference import Reference
    from anyarch.worker.worker import Worker

__all__ = ["CacheOptions", "ExportedCache", "gather", "keyed", "to_directory", "to_registry"]


class CacheOptions(msgspec.Struct, frozen=True):
    """`is_max` (mode=max): the results of all steps, else of those that the images consist of.
    `image_manifest`: an image manifest whose config is the cache config, else an index whose last entry is
    it."""

    compression: Compression
    force_compression: bool = False
    is_max: bool = False
    image_manifest: bool = True
    oci_media_types: bool = True


class ExportedCache(msgspec.Struct, frozen=True):
    """A cache ready to leave: its manifest and config, and its layers with the ids they have here."""

    manifest: Blob
    config: Blob
    layers: tuple[tuple[Descriptor, str], ...]


def keyed(
    solved: Iterable[Solved],
    chains: Sequence[Sequence[str]],
    digest_of: Callable[[str], str],
    *,
    is_max: bool,
    created_at: Callable[[str], float] = lambda layer: 0.0,
) -> list[KeyedResult]:
    """What is to be written of `solved`. `chains` are those of the build's results; `digest_of` gives the
    blob of a layer."""
    finals = [tuple(chain) for chain in chains]
    results = []
    for item in solved:
        outputs: list[tuple[str, ...] | None] = []
        if not item.is_source:
            for output in item.outputs or ():
                layers = output.layers if isinstance(output, SnapshotResult) else ()
                if layers and (is_max or any(final[: len(layers)] == layers for final in finals)):
                    outputs.append(tuple(digest_of(layer) for layer in layers))
                else:
                    outputs.append(None)
        # A step of several outputs is of use with all of them only.
        if not outputs or None in outputs:
            outputs = []
        first = item.outputs[0] if item.outputs else None
        last = first.layers[-1] if isinstance(first, SnapshotResult) and first.layers else ""
        results.append(
            KeyedResult(
                item.canonical,
                item.keys,
                tuple(key.partition("#")[0] for key in item.inputs),
                tuple(outputs),
                created_at(last) if last and outputs else 0.0,
            )
        )
    return results


async def gather(
    worker: Worker, solved: Sequence[Solved], chains: Sequence[Sequence[str]], options: CacheOptions
) -> ExportedCache | None:
    """Make blobs of all layers and the documents; None when there is nothing to keep."""
    wanted: dict[str, None] = {}
    keyed(solved, chains, lambda layer: wanted.setdefault(layer) or layer, is_max=options.is_max)
    made = await asyncio.gather(*(worker.in_cpu(_blob, worker, layer, options) for layer in wanted))
    blobs = dict(zip(wanted, made, strict=True))
    times = {layer: worker.layers.get(layer).created_at for layer in wanted}
    results = keyed(
        solved, chains, lambda layer: blobs[layer].digest, is_max=options.is_max, created_at=times.__getitem__
    )
    config = write(results)
    if not config.layers:
        return None
    return _documents(config, {blob.digest: (blob, layer) for layer, blob in blobs.items()}, options)


def _blob(worker: Worker, layer_id: str, options: CacheOptions) -> Descriptor:
    layers = worker.layers
    layer = layers.get(layer_id)
    blob = layers.blob(layer, options.compression, force=options.force_compression)
    notes = {CREATED_AT: format_time(layer.created_at), UNCOMPRESSED: str(layers.diff_id(layer))}
    if layers.is_base(layer):
        notes[BASE] = "true"
    return Descriptor(media.to_oci(blob.media_type), str(blob.digest), blob.size, annotations=notes)


def _documents(
    config: CacheConfig, blobs: dict[str, tuple[Descriptor, str]], options: CacheOptions
) -> ExportedCache:
    config_blob = Blob.of(CACHE_CONFIG, msgspec.json.encode(config))
    layers = tuple(blobs[digest] for digest in dict.fromkeys(layer.blob for layer in config.layers))
    convert = media.to_oci if options.oci_media_types else media.to_docker
    descriptors = tuple(
        msgspec.structs.replace(descriptor, media_type=convert(descriptor.media_type))
        for descriptor, _ in layers
    )
    if options.image_manifest:
        manifest = Manifest(
            schema_version=2,
            media_type=media.OCI_MANIFEST,
            config=config_blob.descriptor(),
            layers=descriptors,
        )
        return ExportedCache(Blob.of(media.OCI_MANIFEST, encode(manifest)), config_blob, layers)
    kind = convert(media.OCI_INDEX)
    index = Index(schema_version=2, media_type=kind, manifests=(*descriptors, config_blob.descriptor()))
    return ExportedCache(Blob.of(kind, encode(index)), config_blob, layers)


async def to_registry(
    worker: Worker, cache: ExportedCache, reference: Reference, *, on_step: Callable[[str], None]
) -> None:
    """Push what the repository lacks, the manifest under the tag of `reference` last."""
    cancel = threading.Event()
    worker.store.content.put(cache.config.raw)
    try:

        async def one(descriptor: Descriptor, layer: str) -> None:
            await worker.in_network(push_blob, worker, reference, descriptor, layer, cancel)
            if layer:
                on_step(f"writing layer {descriptor.digest}")

        await asyncio.gather(*(one(descriptor, layer) for descriptor, layer in cache.layers))
        await one(cache.config.descriptor(), "")
        on_step(f"writing config {cache.config.digest}")
        await asyncio.to_thread(
            worker.registry.push_manifest, reference, cache.manifest, tag=reference.tag, cancel=cancel
        )
    except asyncio.CancelledError:
        cancel.set()
        raise
    kind = "cache image manifest" if cache.manifest.media_type == media.OCI_MANIFEST else "cache manifest"
    on_step(f"writing {kind} {cache.manifest.digest}")


def to_directory(
    worker: Worker, cache: ExportedCache, dest: str, *, tag: str, on_step: Callable[[str], None]
) -> None:
    """Write into an OCI layout at `dest`, `index.json` last; what other caches have there stays."""
    directory = Path(os.path.abspath(dest))
    content = worker.store.content
    blobs = directory / "blobs" / "sha256"
    with disk_errors(directory):
        blobs.mkdir(parents=True, exist_ok=True)
        for descriptor, layer in cache.layers:
            target = blobs / Digest(descriptor.digest).hex
            if not target.exists() or target.stat().st_size != descriptor.size:
                _fetch(worker, descriptor, layer)
                with content.open(descriptor.digest) as stream:
                    _write(target, iter(partial(stream.read, 1 << 20), b""))
            on_step(f"writing layer {descriptor.digest}")
        for document in (cache.config, cache.manifest):
            _write(blobs / document.digest.hex, (document.raw,))
        _write(directory / "oci-layout", (b'{"imageLayoutVersion":"1.0.0"}',))
        name = "org.opencontainers.image.ref.name"
        old = directory / "index.json"
        kept = decode(Index, old.read_bytes()).manifests if old.exists() else ()
        kept = tuple(item for item in kept if (item.annotations or {}).get(name, "latest") != tag)
        entry = cache.manifest.descriptor(annotations={name: tag})
        index = Index(schema_version=2, media_type=media.OCI_INDEX, manifests=(*kept, entry))
        _write(old, (encode(index),))
    on_step(f"writing cache manifest {cache.manifest.digest}")


def _fetch(worker: Worker, descriptor: Descriptor, layer_id: str) -> None:
    if worker.store.content.has(descriptor.digest):
        return
    for known, origin in worker.layers.remote(worker.layers.get(layer_id)):
        if known.digest == descriptor.digest:
            worker.fetch_from(origin, known, "")
            return
    raise CacheError(f"blob {descriptor.digest} of the cache is not here and its origin is not known")


def _write(path: Path, parts: Iterable[bytes]) -> None:
    """Whole or not at all."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}")
    try:
        with open(unfinished, "wb") as file:
            for part in parts:
                file.write(part)
        os.rename(unfinished, path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
