"""From what a solver knows to a cache config and layers, ready to be written somewhere."""

from __future__ import annotations

import asyncio
import os
import time
from typing import TYPE_CHECKING

import msgspec

from anyarch.archive.compression import Compression
from anyarch.cache.config import (
    BASE,
    CACHE_CONFIG,
    CREATED_AT,
    UNCOMPRESSED,
    KeyedResult,
    Part,
    write,
)
from anyarch.cache.merge import Document, merge
from anyarch.snapshot.forms import UNCOMPRESSED as BLOB_DIFF_ID
from anyarch.spec import media
from anyarch.spec.oci import Blob, Descriptor, Index, Manifest, encode
from anyarch.spec.snapshot import renamed
from anyarch.spec.timestamp import format_time
from anyarch.worker.result import SnapshotResult

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Mapping, Sequence

    from anyarch.cache.config import ForeignRecord
    from anyarch.cache.stock import StockKey
    from anyarch.snapshot.layers import Layer
    from anyarch.solver.solved import Solved
    from anyarch.worker.worker import Worker

__all__ = ["BlobsGone", "CacheOptions", "ExportedCache", "documents", "foreign", "gather", "keyed", "without"]


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
    """What one build has to write: a document of one part, and the ids that its blobs' layers have here."""

    document: Document
    layer_ids: dict[str, str]
    options: CacheOptions

    @property
    def part(self) -> Part:
        return self.document.config.parts[0]


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
    kept = _Kept(chains, is_max=is_max)
    blobs: dict[SnapshotResult, SnapshotResult] = {}
    results = []
    for item in solved:
        outputs: list[SnapshotResult | None] = []
        last = ""
        if not item.is_source:
            for output in item.outputs or ():
                if not isinstance(output, SnapshotResult) or output not in kept:
                    outputs.append(None)
                    continue
                outputs.append(renamed(output, digest_of, blobs))
                last = last or output.top
        if not any(output is not None and output.depth for output in outputs):
            outputs = []
        results.append(
            KeyedResult(
                item.canonical,
                item.keys,
                tuple(key.partition("#")[0] for key in item.inputs),
                tuple(outputs),
                created_at(last) if last else 0.0,
                item.vertex.digest,
            )
        )
    return results


def foreign(results: Iterable[KeyedResult], stock: Mapping[str, StockKey]) -> list[ForeignRecord]:
    """`results` under the keys that BuildKit has for them."""
    if not stock:
        return []
    from anyarch.cache.stock import foreign_records

    by_vertex = {item.vertex: item for item in results}
    outputs = {vertex: item.outputs or (None,) for vertex, item in by_vertex.items()}
    return foreign_records(stock, outputs, lambda vertex: by_vertex[vertex].created_at)


class _Kept:
    """Which chains are written: with `is_max` all, else those that results consist of: what a result begins
    with, and what was merged into it (the copy that a `COPY --link` is)."""

    def __init__(self, chains: Sequence[Sequence[str]], *, is_max: bool) -> None:
        self._is_max = is_max
        self._places: dict[str, set[tuple[int, int]]] = {}
        for number, chain in enumerate(() if is_max else dict.fromkeys(map(tuple, chains))):
            for end, layer in enumerate(chain, 1):
                self._places.setdefault(layer, set()).add((number, end))
        self._ends: dict[SnapshotResult, set[tuple[int, int]]] = {}

    def __contains__(self, chain: SnapshotResult) -> bool:
        return chain.depth > 0 and (self._is_max or bool(self._ends_of(chain)))

    def _ends_of(self, chain: SnapshotResult) -> set[tuple[int, int]]:
        """Where in the results a part that is `chain` ends: next to where that ends on which it lies."""
        new = []
        at: SnapshotResult = chain
        while at not in self._ends and at.below is not None:
            new.append(at)
            at = at.below
        for at in reversed(new):
            assert at.below is not None
            ends = self._places.get(at.top, set())
            if at.depth > 1:
                below = self._ends[at.below]
                ends = {(number, end) for number, end in ends if (number, end - 1) in below}
            self._ends[at] = ends
        return self._ends.get(chain, set())

    def layers(self, solved: Iterable[Solved]) -> list[str]:
        """All layers of what `solved` has to be written, each once."""
        found: dict[str, None] = {}
        seen: set[SnapshotResult] = set()
        for item in solved:
            for output in () if item.is_source else item.outputs or ():
                if not isinstance(output, SnapshotResult) or output not in self:
                    continue
                new = []
                at = output
                while at.below is not None and at not in seen:
                    seen.add(at)
                    new.append(at.top)
                    at = at.below
                found |= dict.fromkeys(reversed(new))
        return list(found)


async def gather(
    worker: Worker,
    solved: Sequence[Solved],
    chains: Sequence[Sequence[str]],
    options: CacheOptions,
    *,
    slot: str = "",
    stock: Mapping[str, StockKey] | None = None,
) -> ExportedCache | None:
    """Make blobs of all layers; None when there is nothing to keep. `slot` names the kind of build; `stock`
    are BuildKit's keys of vertices, under which they are written too."""
    wanted = _Kept(chains, is_max=options.is_max).layers(solved)
    # Most blobs are there already, as a rule: a thread's turn for each would cost more than the looking.
    size = max(1, len(wanted) // 32)
    groups = [wanted[begin : begin + size] for begin in range(0, len(wanted), size)]
    made = await asyncio.gather(*(worker.in_cpu(_blobs, worker, group, options) for group in groups))
    blobs = {layer: blob for group in made for layer, (blob, _) in group.items()}
    times = {layer: at for group in made for layer, (_, at) in group.items()}
    results = keyed(
        solved, chains, lambda layer: blobs[layer].digest, is_max=options.is_max, created_at=times.__getitem__
    )
    config = write(results, foreign=foreign(results, stock or {}))
    if not config.layers:
        return None
    records, own = range(len(config.records)), range(len(config.own))
    part = Part(os.urandom(8).hex(), slot, round(time.time(), 3), tuple(records), tuple(own))
    document = Document(
        msgspec.structs.replace(config, parts=(part,)), {blob.digest: blob for blob in blobs.values()}
    )
    return ExportedCache(document, {blob.digest: layer for layer, blob in blobs.items()}, options)


def _blobs(
    worker: Worker, layer_ids: Sequence[str], options: CacheOptions
) -> dict[str, tuple[Descriptor, float]]:
    """Blob and time of each layer."""
    layers = [worker.layers.get(layer_id) for layer_id in layer_ids]
    return {layer.id: (_blob(worker, layer, options), layer.created_at) for layer in layers}


def _blob(worker: Worker, layer: Layer, options: CacheOptions) -> Descriptor:
    layers = worker.layers
    blob = layers.blob(layer, options.compression, force=options.force_compression)
    notes = dict(blob.annotations or {})
    diff_id = notes.get(BLOB_DIFF_ID) or str(layers.diff_id(layer))
    notes |= {CREATED_AT: format_time(layer.created_at), UNCOMPRESSED: diff_id}
    if layers.is_base(layer):
        notes[BASE] = "true"
    return Descriptor(media.to_oci(blob.media_type), str(blob.digest), blob.size, annotations=notes)


def documents(
    document: Document, options: CacheOptions, *, annotations: dict[str, str] | None = None
) -> tuple[Blob, Blob]:
    """Manifest and config blob of a document."""
    config_blob = Blob.of(CACHE_CONFIG, msgspec.json.encode(document.config))
    convert = media.to_oci if options.oci_media_types else media.to_docker
    descriptors = tuple(
        msgspec.structs.replace(document.blobs[digest], media_type=convert(document.blobs[digest].media_type))
        for digest in dict.fromkeys(layer.blob for layer in document.config.layers)
    )
    if options.image_manifest:
        manifest = Manifest(
            schema_version=2,
            media_type=media.OCI_MANIFEST,
            config=config_blob.descriptor(),
            layers=descriptors,
            annotations=annotations,
        )
        return Blob.of(media.OCI_MANIFEST, encode(manifest)), config_blob
    kind = convert(media.OCI_INDEX)
    index = Index(
        schema_version=2,
        media_type=kind,
        manifests=(*descriptors, config_blob.descriptor()),
        annotations=annotations,
    )
    return Blob.of(kind, encode(index)), config_blob


class BlobsGone(Exception):
    """Blobs of a cache that is to be written which are nowhere any more: another cache named them."""

    def __init__(self, digests: Iterable[str]) -> None:
        super().__init__("blobs of a build cache are gone")
        self.digests = frozenset(digests)


def without(cache: ExportedCache, gone: Container[str]) -> ExportedCache | None:
    """`cache` without the results that have a blob of `gone` among their layers; their records stay. None
    when there is nothing to keep."""
    config = cache.document.config
    whole: list[bool] = []
    for layer in config.layers:  # each after the one below it
        whole.append(layer.blob not in gone and (layer.parent < 0 or whole[layer.parent]))
    records, own = (
        tuple(
            msgspec.structs.replace(
                record, layers=tuple(result for result in record.layers if whole[result.layer])
            )
            for record in group
        )
        for group in (config.records, config.own)
    )
    stripped = msgspec.structs.replace(config, records=records, own=own)
    document = merge([Document(stripped, cache.document.blobs)], cache.part.at)
    if not document.config.layers:
        return None
    return ExportedCache(document, cache.layer_ids, cache.options)
