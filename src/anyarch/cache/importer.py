"""Reading a build cache: its manifest and config now, its layers when a build needs them."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from anyarch.cache.config import (
    BASE,
    CACHE_CONFIG,
    CREATED_AT,
    INLINE_KEY,
    OWN_INLINE_KEY,
    UNCOMPRESSED,
    CacheConfig,
    CacheLayer,
    CacheRecord,
    Found,
    decode_config,
    parse,
)
from anyarch.cache.merge import Document
from anyarch.errors import BlobNotFound, CacheError, DigestMismatch
from anyarch.snapshot.layers import LAYOUT
from anyarch.spec import media
from anyarch.spec.codec import json_decoder
from anyarch.spec.digest import Digest
from anyarch.spec.oci import ImageConfig, Index, Manifest, decode
from anyarch.spec.snapshot import renamed
from anyarch.spec.timestamp import parse_time
from anyarch.worker.worker import EMPTY_LAYER

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterator, Mapping

    from anyarch.cache.stock import Matched, StockKey
    from anyarch.http.cancel import Cancel
    from anyarch.spec.oci import Descriptor
    from anyarch.spec.reference import Reference
    from anyarch.spec.snapshot import Snapshot
    from anyarch.worker.worker import Worker

__all__ = [
    "ImportedCache",
    "read_document",
    "read_found",
    "read_local",
    "read_local_document",
    "read_registry",
]


class ImportedCache:
    """What a cache knows, and its layers as layers of the store. Nothing of it is written to the store before
    a build uses it. `is_lasting`: its layers can be had by later builds that do not name it."""

    def __init__(self, worker: Worker, found: Found, fetch_from: str, *, is_lasting: bool = True) -> None:
        self.is_lasting = is_lasting
        self._worker = worker
        self._found = found
        self._fetch_from = fetch_from
        self._layers: dict[str, str] = {}
        self._chains: dict[Snapshot, Snapshot] = {}  # of blobs and of layers
        self._not_ours: set[Snapshot] = set()  # chains of other tools, whose base layers are marked

    def __len__(self) -> int:
        return len(self._found.results)

    def adopt(self, keys: Mapping[str, StockKey]) -> Matched:
        """What the cache has under BuildKit's keys."""
        from anyarch.cache.stock import Matched, match

        found = Matched({}, {}, set())
        for config, blobs in self._found.documents:
            one = match(keys, config, blobs)
            found.records.update(one.records)
            for vertex, chains in one.results.items():
                found.results.setdefault(vertex, chains)
            for vertex, contents in one.contents.items():
                for position, records in contents.items():
                    found.contents.setdefault(vertex, {}).setdefault(position, []).extend(records)
        return found

    def add(self, key: str, chains: tuple[Snapshot | None, ...], bases: Container[str]) -> None:
        """Know a result under one of our keys too. `bases` are the diff IDs of layers of base images: other
        tools do not tell which of a chain are these, and no step of the build made them."""
        if self._found.results.setdefault(key, chains) is not chains:
            return
        blobs = self._found.blobs
        for chain in chains:
            at = chain
            while at is not None and at.below is not None and at not in self._not_ours:
                self._not_ours.add(at)
                notes = blobs[at.top].annotations or {} if at.top else {}
                if notes.get(UNCOMPRESSED) in bases:
                    blobs[at.top] = msgspec.structs.replace(
                        blobs[at.top], annotations={**notes, BASE: "true"}
                    )
                at = at.below

    def canonical(self, key: str) -> str | None:
        """The canonical key that `key` leads to."""
        return self._found.links.get(key)

    def load(self, canonical: str) -> list[Snapshot | None] | None:
        """The chains of layers (ids) of a result, made known to the store; their bytes stay elsewhere. None
        for an output that the cache does not have."""
        outputs = self._found.results.get(canonical)
        if outputs is None:
            return None
        return [renamed(chain, self._layer, self._chains) if chain is not None else None for chain in outputs]

    def _layer(self, blob: str) -> str:
        layer = self._layers.get(blob)
        if layer is None:
            layer = self._layers[blob] = self._new_layer(blob)
        return layer

    def _new_layer(self, blob: str) -> str:
        if not blob:
            return self._worker.empty_layer()
        descriptor = self._found.blobs[blob]
        notes = descriptor.annotations or {}
        created_at = parse_time(notes.get(CREATED_AT, ""))
        if notes[UNCOMPRESSED] == EMPTY_LAYER:
            # Made here instead of fetched; the image tells when the step ran that changed nothing.
            records = self._worker.store.records
            records.add(EMPTY_LAYER, size=0, diff_id=EMPTY_LAYER, created_at=created_at)
            return self._worker.empty_layer()
        return self._worker.layers.add_cached(
            msgspec.structs.replace(descriptor, annotations=None),
            notes[UNCOMPRESSED],
            fetch_from=self._fetch_from,
            is_base=BASE in notes,
            created_at=created_at,
        ).id


def read_registry(worker: Worker, reference: Reference) -> ImportedCache:
    """The cache that `reference` names, or that is in the images it names. Raises `RegistryError` and its
    kin, `UnsupportedMedia`."""
    registry = worker.registry
    cancel = worker.network_cancel
    root = registry.manifest(reference, cancel=cancel)

    def read(descriptor: Descriptor) -> bytes:
        if descriptor.media_type in media.INDEXES | media.MANIFESTS:
            return registry.manifest(reference, Digest.parse(descriptor.digest), cancel=cancel).raw
        return registry.read(reference, descriptor, cancel=cancel)

    return ImportedCache(worker, read_found(root.raw, root.media_type, read), str(reference))


def read_local(worker: Worker, source: str, *, digest: str = "", tag: str = "latest") -> ImportedCache:
    """The cache in the directory `source`: that of `digest`, else what `tag` names."""
    directory = Path(os.path.abspath(source))
    descriptor = _choose(directory, digest, tag)
    read = _reader(directory)
    found = read_found(read(descriptor), descriptor.media_type, read)
    return ImportedCache(worker, found, f"{LAYOUT}{directory}")


def read_document(worker: Worker, reference: Reference, cancel: Cancel | None = None) -> Document:
    """The cache document that `reference` names, to be merged. Raises `CacheError` when it names something
    else, `ManifestNotFound` and its kin."""
    registry = worker.registry
    root = registry.manifest(reference, cancel=cancel)
    return _document(
        root.raw,
        root.media_type,
        lambda descriptor: registry.read(reference, descriptor, cancel=cancel),
    )


def read_local_document(source: str, *, tag: str) -> Document:
    """The same of the directory `source`."""
    directory = Path(os.path.abspath(source))
    descriptor = _choose(directory, "", tag)
    read = _reader(directory)
    return _document(read(descriptor), descriptor.media_type, read)


def _document(raw: bytes, media_type: str, read: Callable[[Descriptor], bytes]) -> Document:
    config, blobs = _parts_of(raw, media_type)
    if config is None:
        raise CacheError("there is no build cache in it")
    return Document(decode_config(read(config)), {item.digest: item for item in blobs})


def _reader(directory: Path) -> Callable[[Descriptor], bytes]:
    def read(item: Descriptor) -> bytes:
        wanted = Digest.parse(item.digest)
        try:
            raw = (directory / "blobs" / wanted.algorithm / wanted.hex).read_bytes()
        except FileNotFoundError:
            raise BlobNotFound(f"the cache {directory} lacks the blob {wanted}") from None
        if Digest.of(raw) != wanted:
            raise DigestMismatch(f"the cache {directory}: blob {wanted} has digest {Digest.of(raw)}")
        return raw

    return read


def _choose(directory: Path, digest: str, tag: str) -> Descriptor:
    try:
        index = decode(Index, (directory / "index.json").read_bytes())
    except FileNotFoundError:
        raise CacheError(
            f"could not read {directory}/index.json: no such file or directory",
            hint="an earlier build writes it with --cache-to type=local,dest=…",
        ) from None
    for item in index.manifests:
        name = (item.annotations or {}).get("org.opencontainers.image.ref.name", "latest")
        if item.digest == digest or (not digest and name == tag):
            return item
    raise CacheError(f"{directory}: no cache {digest or tag} in its index.json")


def read_found(raw: bytes, media_type: str, read: Callable[[Descriptor], bytes]) -> Found:
    """What a cache document, or the images that carry one, tell. Raises `CacheError`."""
    config, blobs = _parts_of(raw, media_type)
    if config is not None:
        return parse(decode_config(read(config)), {item.digest: item for item in blobs})
    found = Found()
    for image in _images(raw, media_type, read):
        inline = _inline(image, read)
        if inline is not None:
            found.add(inline)
    if not found.documents:
        raise CacheError("there is no build cache in it")
    return found


def _parts_of(raw: bytes, media_type: str) -> tuple[Descriptor | None, list[Descriptor]]:
    """The descriptor of a cache config, if there is one, and those of the blobs."""
    if media_type in media.INDEXES:
        index = decode(Index, raw)
        config = next((item for item in index.manifests if item.media_type == CACHE_CONFIG), None)
        return config, [item for item in index.manifests if item is not config]
    manifest = decode(Manifest, raw)
    return (manifest.config if manifest.config.media_type == CACHE_CONFIG else None), list(manifest.layers)


def _images(raw: bytes, media_type: str, read: Callable[[Descriptor], bytes]) -> Iterator[Manifest]:
    if media_type not in media.INDEXES:
        yield decode(Manifest, raw)
        return
    for item in decode(Index, raw).manifests:
        if item.media_type in media.MANIFESTS:
            yield decode(Manifest, read(item))


def _inline(manifest: Manifest, read: Callable[[Descriptor], bytes]) -> Found | None:
    """The cache that an image carries in its config."""
    if manifest.config.media_type not in media.CONFIGS:
        return None
    raw = read(manifest.config)
    config = decode(ImageConfig, raw)
    diff_ids = config.rootfs.diff_ids or ()
    members: dict[str, Any] = json.loads(raw)
    given = [members.get(name) for name in (INLINE_KEY, OWN_INLINE_KEY)]
    if not any(given) or len(diff_ids) != len(manifest.layers):
        return None
    decoder = json_decoder(tuple[CacheRecord, ...])
    try:
        records, own = (
            decoder.decode(base64.b64decode(text, validate=True)) if text else () for text in given
        )
    except (ValueError, TypeError, msgspec.DecodeError):
        return None
    times = [item.created or "" for item in config.history or () if not item.empty_layer]
    blobs = {}
    for number, (layer, diff_id) in enumerate(zip(manifest.layers, diff_ids, strict=True)):
        # What such an image holds was written with its times already, so its layers are left as they are.
        notes = {UNCOMPRESSED: diff_id, BASE: "true"}
        if len(times) == len(diff_ids):
            notes[CREATED_AT] = times[number]
        blobs[layer.digest] = msgspec.structs.replace(layer, annotations=notes)
    layers = tuple(CacheLayer(layer.digest, number - 1) for number, layer in enumerate(manifest.layers))
    return parse(CacheConfig(layers, records, own), blobs)
