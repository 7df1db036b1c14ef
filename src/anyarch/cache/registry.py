"""A build cache in a registry: reading it, and writing it while others write.

Registries have no compare-and-swap. So a writer first pushes its part under a tag of its own
(`TAG.anyarch-part-…`), then merges all parts that it finds, and what the cache's tag names, into one
document, and reads again until the tag names a document that holds them all. Whoever writes last thus has
seen the parts of all who wrote before; a writer that dies leaves its part to the next one.
"""

from __future__ import annotations

import asyncio
import re
import threading
import time
from typing import TYPE_CHECKING

from anyarch.cache.exporter import BlobsGone, documents
from anyarch.cache.importer import read_document
from anyarch.cache.merge import living, merge
from anyarch.errors import AnyarchError, BlobNotFound, CacheError, ManifestNotFound, RegistryError
from anyarch.spec import media
from anyarch.worker.transfer import push_blob

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from anyarch.cache.config import Part
    from anyarch.cache.exporter import ExportedCache
    from anyarch.cache.merge import Document
    from anyarch.spec.oci import Blob, Descriptor
    from anyarch.spec.reference import Reference
    from anyarch.worker.worker import Worker

__all__ = ["PART_TAG", "to_registry"]

PART_TAG = ".anyarch-part-"
_PART = re.compile(r"(?P<at>[0-9a-f]{8})-(?P<id>[0-9a-f]{16})\Z")
_PART_AGE_S = 3600
_TRIES = 100


async def to_registry(
    worker: Worker, cache: ExportedCache, reference: Reference, *, on_step: Callable[[str], None]
) -> Blob:
    """Push what the repository lacks, then the manifest under the tag of `reference`; answers that. Raises
    `BlobsGone`."""
    writer = _Writer(worker, cache, reference, on_step)
    try:
        return await writer.write()
    except asyncio.CancelledError:
        writer.cancel.set()
        raise


def _parts(documents: Iterable[Document]) -> Iterator[Part]:
    return (part for document in documents for part in document.config.parts)


class _Writer:
    def __init__(
        self, worker: Worker, cache: ExportedCache, reference: Reference, on_step: Callable[[str], None]
    ) -> None:
        self._worker = worker
        self._cache = cache
        self._reference = reference
        self._on_step = on_step
        self._parts: dict[str, Document | None] = {}  # by tag
        self.cancel = threading.Event()

    async def write(self) -> Blob:
        run = self._worker.in_network
        there = await run(self._read, self._reference)
        await self._push_layers(there)
        if await run(self._tags) is None:
            # Without a list of tags others cannot be seen: at least nothing that is there is lost.
            return await self._merge_alone()
        await self._push_part()
        for _ in range(_TRIES):
            # In this order: a part that is published after the list was read is its writer's to care for.
            tags = await run(self._tags) or {}
            current = await run(self._read, self._reference)
            found = await run(self._found, tags, current.ids if current is not None else frozenset())
            everything = [item for item in (current, *found) if item is not None]
            alive = living(_parts([self._cache.document, *everything]), time.time())
            if current is not None and {part.id for part in alive} <= current.ids:
                manifest = await run(self._worker.registry.manifest, self._reference, cancel=self.cancel)
                kind = (
                    "cache image manifest" if manifest.media_type == media.OCI_MANIFEST else "cache manifest"
                )
                self._on_step(f"writing {kind} {manifest.digest}")
                await run(self._clean)
                return manifest
            merged = merge([self._cache.document, *everything], time.time())
            manifest, config = documents(merged, self._cache.options)
            await self._push_config(config)
            await run(
                self._worker.registry.push_manifest,
                self._reference,
                manifest,
                tag=self._reference.tag,
                cancel=self.cancel,
            )
        raise CacheError(
            f"{self._reference}: others write this cache all the time; gave up after {_TRIES} tries",
            hint="the part that this build wrote is there, and the next writer takes it in",
        )

    async def _merge_alone(self) -> Blob:
        run = self._worker.in_network
        for _ in range(_TRIES):
            current = await run(self._read, self._reference)
            known = [current] if current is not None else []
            merged = merge([self._cache.document, *known], time.time())
            manifest, config = documents(merged, self._cache.options)
            if current is not None and self._cache.document.ids <= current.ids:
                return manifest
            await self._push_config(config)
            await run(
                self._worker.registry.push_manifest,
                self._reference,
                manifest,
                tag=self._reference.tag,
                cancel=self.cancel,
            )
        raise CacheError(f"{self._reference}: the cache that was written is not what the registry gives")

    # what is there ------------------------------------------------------------------------------------

    def _read(self, reference: Reference) -> Document | None:
        """The document at a tag, None when there is none that could be merged."""
        try:
            return read_document(self._worker, reference, self.cancel)
        except (ManifestNotFound, CacheError):
            return None

    def _tags(self) -> dict[str, float] | None:
        """The tags of parts with the time they were written; None when the registry lists none."""
        try:
            tags = self._worker.registry.tags(self._reference, cancel=self.cancel)
        except ManifestNotFound:
            return {}
        except RegistryError:
            return None
        prefix = self._reference.tag + PART_TAG
        found = {}
        for tag in tags:
            match = _PART.match(tag.removeprefix(prefix)) if tag.startswith(prefix) else None
            if match is not None:
                found[tag] = float(int(match["at"], 16))
        return found

    def _found(self, tags: Iterable[str], known: frozenset[str]) -> list[Document]:
        """The parts of other writers that are not in the document with the parts `known`, each read once."""
        for tag in tags:
            ident = tag.rpartition("-")[2]
            if tag not in self._parts and ident not in known and ident != self._cache.part.id:
                self._parts[tag] = self._read(self._reference.with_tag(tag))
        return [part for part in self._parts.values() if part is not None]

    def _clean(self) -> None:
        """Remove parts that have long been taken in, where the registry lets us."""
        now = time.time()
        for tag, at in (self._tags() or {}).items():
            if now - at < _PART_AGE_S:
                continue
            try:
                reference = self._reference.with_tag(tag)
                blob = self._worker.registry.manifest(reference, cancel=self.cancel)
                self._worker.registry.delete(reference, blob.digest, cancel=self.cancel)
            except AnyarchError as error:
                self._on_step(f"cannot remove {tag}: {error.message}")
                return

    # writing ------------------------------------------------------------------------------------------

    async def _push_layers(self, there: Document | None) -> None:
        """The layers that the cache which is there does not name; those it names, the registry has."""
        known = there.blobs if there is not None else {}
        blobs = self._cache.document.blobs
        wanted = [blob for digest, blob in blobs.items() if digest not in known]
        gone: list[str] = []

        async def one(descriptor: Descriptor) -> None:
            layer = self._cache.layer_ids[descriptor.digest]
            try:
                await self._worker.in_network(
                    push_blob, self._worker, self._reference, descriptor, layer, self.cancel
                )
            except BlobNotFound:
                gone.append(descriptor.digest)
                return
            self._on_step(f"writing layer {descriptor.digest}")

        await asyncio.gather(*(one(descriptor) for descriptor in wanted))
        if gone:
            raise BlobsGone(gone)

    async def _push_config(self, config: Blob) -> None:
        self._worker.store.content.put(config.raw)
        await self._worker.in_network(
            push_blob, self._worker, self._reference, config.descriptor(), "", self.cancel
        )
        self._on_step(f"writing config {config.digest}")

    async def _push_part(self) -> None:
        part = self._cache.part
        # The note makes it another manifest than that of the cache, so that it can be removed alone.
        manifest, config = documents(
            self._cache.document, self._cache.options, annotations={"anyarch.part": part.id}
        )
        await self._push_config(config)
        tag = f"{self._reference.tag}{PART_TAG}{int(part.at):08x}-{part.id}"
        if len(tag) > 128:
            raise CacheError(
                f"the tag {self._reference.tag} is too long for a cache", hint="at most 85 letters"
            )
        await self._worker.in_network(
            self._worker.registry.push_manifest,
            self._reference.with_tag(tag),
            manifest,
            tag=tag,
            cancel=self.cancel,
        )
