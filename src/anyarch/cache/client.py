"""A build cache in a directory that a client has: the blobs travel through its content store, and the client
keeps the index of the directory itself."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING, Protocol

import msgspec

from anyarch.cache.exporter import BlobsGone, documents
from anyarch.cache.importer import ImportedCache, read_found
from anyarch.errors import BlobNotFound, CacheError, DigestMismatch
from anyarch.snapshot.layers import BLOBS
from anyarch.spec.codec import json_decoder
from anyarch.spec.digest import Digest
from anyarch.worker.transfer import bring_blob

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import BinaryIO

    from anyarch.cache.exporter import ExportedCache
    from anyarch.spec.oci import Blob, Descriptor
    from anyarch.store.content import BlobWriter
    from anyarch.worker.worker import Worker

__all__ = ["ClientCaches", "read_client", "to_client"]

_MAX_DOCUMENT = 64 << 20


class ClientCaches(Protocol):
    """Called in any thread. What fails is a `CacheError`."""

    def open(self, directory: str, digest: str) -> BinaryIO:
        """The content of a blob; the caller closes it. `BlobNotFound` when the directory lacks it."""
        ...

    def has(self, directory: str, digest: str) -> bool: ...

    def put(self, directory: str, digest: str, size: int, opened: Callable[[], BinaryIO]) -> None: ...


class _Typed(msgspec.Struct, rename="camel"):
    media_type: str = ""


def read_client(worker: Worker, caches: ClientCaches, directory: str, digest: str) -> ImportedCache:
    """The cache of `digest`, which the client took from its index. Raises `CacheError`, `DigestMismatch`."""
    if not digest:
        raise CacheError("local cache importer requires explicit digest")

    def raw(wanted: str) -> bytes:
        with caches.open(directory, wanted) as stream:
            found = stream.read(_MAX_DOCUMENT + 1)
        if Digest.of(found) != wanted:
            raise DigestMismatch(f"the client's cache {directory}: blob {wanted} has other bytes")
        return found

    def fetch(descriptor: Descriptor, writer: BlobWriter) -> None:
        with caches.open(directory, descriptor.digest) as stream:
            while chunk := stream.read(1 << 20):
                writer.write(chunk)

    root = raw(digest)
    try:
        media_type = json_decoder(_Typed).decode(root).media_type
    except msgspec.DecodeError as error:
        raise CacheError(f"the client's cache {directory}: {error}") from None
    origin = f"{BLOBS}{directory} of a client"
    worker.blob_places[origin] = fetch
    found = read_found(root, media_type, lambda descriptor: raw(descriptor.digest))
    return ImportedCache(worker, found, origin, is_lasting=False)


def to_client(
    worker: Worker,
    caches: ClientCaches,
    cache: ExportedCache,
    directory: str,
    *,
    on_step: Callable[[str], None],
) -> Blob:
    """Send what the client's directory lacks, the manifest last; answers that. Raises `BlobsGone`."""
    content = worker.store.content
    gone = []
    for digest, descriptor in cache.document.blobs.items():
        if not caches.has(directory, digest):
            try:
                bring_blob(worker, descriptor, cache.layer_ids[digest])
            except BlobNotFound:
                gone.append(digest)
                continue
            caches.put(directory, digest, descriptor.size, lambda digest=digest: content.open(digest))  # type: ignore[misc]
        on_step(f"writing layer {digest}")
    if gone:
        raise BlobsGone(gone)
    manifest, config = documents(cache.document, cache.options)
    for document, name in ((config, "config"), (manifest, "cache manifest")):
        raw = document.raw
        caches.put(directory, str(document.digest), len(raw), lambda raw=raw: BytesIO(raw))  # type: ignore[misc]
        on_step(f"writing {name} {document.digest}")
    return manifest
