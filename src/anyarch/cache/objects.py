"""Build caches in object stores: blobs by digest, and index documents that several writers change.

`s3`, `azblob` and `gha` differ in how objects are named and requests are signed; here is what they share: the
documents, the merge with what others wrote, and the transfer of blobs.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Protocol

import msgspec

from anyarch.cache.config import CacheConfig, annotated, descriptors_of
from anyarch.cache.exporter import BlobsGone
from anyarch.cache.importer import ImportedCache
from anyarch.cache.merge import Document, merge
from anyarch.errors import BlobNotFound, CacheError, NetworkError
from anyarch.snapshot.layers import BLOBS
from anyarch.spec.codec import json_decoder
from anyarch.worker.transfer import bring_blob

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import BinaryIO

    from anyarch.cache.exporter import ExportedCache
    from anyarch.http.cancel import Cancel
    from anyarch.http.client import FileBody, HttpClient
    from anyarch.http.response import Response
    from anyarch.http.retry import RetryPolicy
    from anyarch.spec.oci import Descriptor
    from anyarch.store.content import BlobWriter
    from anyarch.worker.worker import Worker

__all__ = ["Http", "Objects", "failure", "read_objects", "to_objects"]

DOCUMENT_LIMIT = 256 << 20
_ERROR_LIMIT = 64 << 10
_CHUNK = 1 << 20


class Objects(Protocol):
    """One place. Calls block; errors are `CacheError` and `NetworkError`."""

    @property
    def place(self) -> str:
        """Names the place for people and for the origins of layers; holds no secret."""
        ...

    @property
    def parallel(self) -> int:
        """How many blobs are sent at once."""
        ...

    def indexes(self) -> list[bytes]:
        """The index documents to be read."""
        ...

    def update(self, change: Callable[[bytes | None], bytes | None]) -> None:
        """Write the index until `change` is content. It gets what is there (None: nothing) and answers what
        is to be written (None: it will do)."""
        ...

    def has(self, digest: str) -> bool:
        """Whether the blob is there; it is kept from being removed for its age, where that is done."""
        ...

    def put(self, descriptor: Descriptor, open_: Callable[[], BinaryIO]) -> None: ...

    def get(self, descriptor: Descriptor, writer: BlobWriter) -> None: ...


# reading and writing ------------------------------------------------------------------------------


def read_objects(worker: Worker, objects: Objects) -> ImportedCache:
    """The cache of a place; an empty one where nothing is yet, as in BuildKit."""
    from anyarch.cache.config import Found, parse

    found = Found()
    for raw in objects.indexes():
        document = _decode(raw)
        found.add(parse(document.config, document.blobs))
    origin = f"{BLOBS}{objects.place}"
    worker.blob_places[origin] = objects.get
    return ImportedCache(worker, found, origin, is_lasting=False)


async def to_objects(
    worker: Worker, cache: ExportedCache, objects: Objects, *, on_step: Callable[[str], None]
) -> None:
    """Send the blobs that are not there, then the index. Raises `BlobsGone`."""
    content = worker.store.content
    gone: list[str] = []
    slots = asyncio.Semaphore(objects.parallel)

    def send(descriptor: Descriptor, layer: str) -> None:
        if objects.has(descriptor.digest):
            return
        try:
            bring_blob(worker, descriptor, layer)
        except BlobNotFound:
            gone.append(descriptor.digest)
            return
        objects.put(descriptor, lambda: content.open(descriptor.digest))
        on_step(f"writing layer {descriptor.digest}")

    async def one(descriptor: Descriptor) -> None:
        async with slots:
            await worker.in_network(send, descriptor, cache.layer_ids[descriptor.digest])

    known = await worker.in_network(_known, objects)
    new = [blob for digest, blob in cache.document.blobs.items() if digest not in known]
    await asyncio.gather(*(one(descriptor) for descriptor in new))
    if gone:
        raise BlobsGone(gone)
    mine = cache.document

    def change(raw: bytes | None) -> bytes | None:
        there = _decode_or_none(raw)
        merged = merge([mine, there] if there is not None else [mine], time.time())
        if there is not None and merged.ids <= there.ids:
            return None
        return msgspec.json.encode(annotated(merged.config, merged.blobs))

    await worker.in_network(objects.update, change)
    on_step("writing cache index")


def _known(objects: Objects) -> frozenset[str]:
    """Blobs that a cache written within the last day names: these need not be asked for one by one."""
    found: set[str] = set()
    newest = time.time() - 86400
    for raw in objects.indexes():
        document = _decode_or_none(raw)
        if document is not None and any(part.at > newest for part in document.config.parts):
            alive = merge([document], time.time())
            found |= {layer.blob for layer in alive.config.layers}
    return frozenset(found)


def _decode(raw: bytes) -> Document:
    try:
        config = json_decoder(CacheConfig).decode(raw)
    except msgspec.DecodeError as error:
        raise CacheError(f"the index of the cache is not understood: {error}") from None
    return Document(config, descriptors_of(config))


def _decode_or_none(raw: bytes | None) -> Document | None:
    if raw is None:
        return None
    try:
        document = _decode(raw)
    except CacheError:
        return None  # damaged, or of a later form: written anew
    if any(layer.blob not in document.blobs for layer in document.config.layers):
        return None
    return document


# HTTP ---------------------------------------------------------------------------------------------


class Http:
    """Requests to one place, with retries and downloads that go on where they broke off."""

    def __init__(
        self, what: str, client: HttpClient, cancel: Cancel | None, retry: RetryPolicy | None = None
    ) -> None:
        self.what = what
        self.cancel = cancel
        self.retry = retry
        self._client = client

    def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        body: bytes | FileBody | None = None,
        whole: int = 0,
    ) -> Response:
        return self._client.request(
            method, url, headers=headers, body=body, cancel=self.cancel, retry=self.retry, whole=whole
        )

    def download(
        self,
        ask: Callable[[int], Response],
        descriptor: Descriptor,
        writer: BlobWriter,
    ) -> None:
        """Fill `writer`; `ask(offset)` gives an answer that begins there."""
        failures = 0
        while writer.offset < descriptor.size:
            begin = writer.offset
            with ask(begin) as response:
                if response.status == 404:
                    raise BlobNotFound(f"{self.what}: blob {descriptor.digest} is not there any more")
                if response.status not in ((200,) if begin == 0 else (206,)):
                    raise failure(self.what, response, descriptor.digest)
                try:
                    while data := response.read(_CHUNK):
                        writer.write(data)
                        if writer.offset > descriptor.size:
                            raise CacheError(
                                f"{self.what}: blob {descriptor.digest} is longer than it should be"
                            )
                except NetworkError:
                    failures = 0 if writer.offset > begin else failures + 1
                    if failures > 3:
                        raise
                    continue
            if writer.offset == begin:
                raise CacheError(f"{self.what}: blob {descriptor.digest} is shorter than it should be")


def failure(what: str, response: Response, about: str) -> CacheError:
    """The error for an answer of an unwanted status; closes it."""
    import re

    with response:
        try:
            raw = response.read_all(_ERROR_LIMIT)
        except NetworkError:
            raw = b""
    text = raw.decode("utf-8", "replace")
    code = re.search(r"<Code>([^<]*)</Code>", text)
    message = re.search(r"<Message>([^<]*)</Message>", text) or re.search(
        r'"(?:message|msg)"\s*:\s*"([^"]*)"', text
    )
    parts = [
        part[1].splitlines()[0].strip() for part in (code, message) if part is not None and part[1].strip()
    ]
    reason = ": ".join(parts) or f"{response.status} {response.reason}"
    hint = None
    if response.status in (401, 403):
        hint = "the credentials are missing, wrong, out of date, or do not allow this"
    return CacheError(f"{what}: {about}: {reason}", hint=hint)
