"""One blob of a registry or an OCI layout as a file: `docker-image+blob://NAME@DIGEST`, `oci-layout+blob://…`."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from anyarch.errors import BuildError
from anyarch.solver.vertex import CacheMap
from anyarch.spec.reference import Reference
from anyarch.worker.onefile import OneFile
from anyarch.worker.ops.source import check_record_type
from anyarch.worker.result import SnapshotResult

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anyarch.llb.ops import SourceOp
    from anyarch.spec.digest import Digest
    from anyarch.worker.result import Result
    from anyarch.worker.worker import Worker

__all__ = ["BlobSource", "check_named_blob", "fetch_named_blob"]


class BlobSource:
    """Known by the digest, the file's name, mode and owner: nothing is fetched until the file is needed. A
    repository, or a client's layout, that was not seen to have it is asked whether it does."""

    def __init__(self, worker: Worker, op: SourceOp, digest: str) -> None:
        self._worker = worker
        self._identifier = op.identifier
        self._session = op.attrs.get("oci.session", "")
        self._store = op.attrs.get("oci.store", "")
        self._vertex = digest
        check_record_type(op.attrs.get("image.recordtype", ""))
        _, self._digest = split_blob_name(op.identifier)
        if op.identifier.startswith("oci-layout+") and not self._store:
            raise BuildError("oci-layout blob source requires store id")
        self._file = OneFile.of(op.attrs, default=self._digest.hex)

    def pin(self) -> str:
        return str(self._digest)

    async def cache_map(self) -> CacheMap:
        await self._worker.in_network(
            check_named_blob, self._worker, self._identifier, self._session, self._store
        )
        key = f"blob/1\0{self._digest}\0{self._file.key}"
        digest = hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()
        return CacheMap(digest, is_source=True)

    async def run(self, inputs: Sequence[Result]) -> Sequence[Result]:
        return [SnapshotResult((await self._worker.in_network(self._run),))]

    def _run(self) -> str:
        worker = self._worker
        fetch_named_blob(worker, self._identifier, self._session, self._store, self._vertex)
        return self._file.layer(worker, self._digest, description=self._identifier)


def split_blob_name(identifier: str) -> tuple[Reference, Digest]:
    """Of `scheme://NAME@DIGEST`. Raises `BuildError`, `BadReference`."""
    reference = Reference.parse(identifier.partition("://")[2])
    if reference.digest is None:
        raise BuildError(f"{identifier}: invalid reference digest", hint="name the blob NAME@sha256:…")
    return reference, reference.digest


def check_named_blob(worker: Worker, identifier: str, session: str, store: str) -> None:
    """Nobody gets by its digest what the place that he names does not have. Raises as a registry client,
    `BlobNotFound`."""
    from anyarch.spec.oci import Descriptor

    reference, digest = split_blob_name(identifier)
    descriptor = Descriptor("application/octet-stream", digest, 0)
    if identifier.startswith("oci-layout"):
        from anyarch.source.layout import LayoutRegistry

        if worker.layout_blobs is not None:
            LayoutRegistry(worker.layout_blobs, session, store).check(reference, descriptor)
    elif not worker.is_locked and worker.store.origins.unknown(reference.name, (digest,)):
        worker.registry.check(reference, descriptor, cancel=worker.network_cancel)
        worker.store.origins.add(reference.name, (digest,))


def fetch_named_blob(worker: Worker, identifier: str, session: str, store: str, vertex: str) -> Digest:
    """Bring the blob into the content store, unless it is there; its digest."""
    from anyarch.spec.oci import Descriptor

    reference, digest = split_blob_name(identifier)
    if worker.store.content.has(digest):
        return digest
    if identifier.startswith("oci-layout"):
        from anyarch.source.layout import LayoutRegistry

        registry = LayoutRegistry(worker.layout_blobs, session, store)
        content = worker.store.content
        with registry.open(reference, digest) as stream, content.writer(expected=digest) as writer:
            while chunk := stream.read(1 << 20):
                writer.write(chunk)
            writer.commit()
        return digest
    size = worker.registry.blob_size(reference, digest, cancel=worker.network_cancel)
    worker.fetch_blob(reference, Descriptor("application/octet-stream", digest, size), vertex)
    return digest
