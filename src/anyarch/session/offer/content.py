"""Directories of blobs (OCI layouts) that a build reads images from or keeps its cache in: containerd's
content service, as the session has it.

The store that a call means is named in its metadata. Only blobs are served, by digest; what is written
gets its name when it is whole and its digest is right.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from anyarch.api.proto import content_pb2 as content
from anyarch.api.proto import wellknown_pb2 as wellknown
from anyarch.api.rpc.server import unary
from anyarch.api.rpc.status import Code, RpcError
from anyarch.errors import InvalidDigest
from anyarch.spec.digest import Digest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anyarch.api.rpc.server import Handler, ServerCall

__all__ = ["BlobDirectory", "content_methods"]

_SERVICE = "/containerd.services.content.v1.Content"
_STORE_ID = "buildkit-attachable-store-id"
_CHUNK = 1 << 20  # the builder's limit is 4 MiB a message


class BlobDirectory:
    """The blobs of an OCI layout in `root`; `is_writable` makes it when something is written."""

    def __init__(self, root: str, *, is_writable: bool = False) -> None:
        self.root = Path(root)
        self.is_writable = is_writable

    def path(self, text: str) -> Path:
        """Raises `RpcError` for what is no digest."""
        try:
            digest = Digest.parse(text)
        except InvalidDigest as error:
            raise RpcError(Code.INVALID_ARGUMENT, error.message) from None
        return self.root / "blobs" / digest.algorithm / digest.hex

    def size(self, text: str) -> int:
        """Raises `RpcError` (NOT_FOUND)."""
        try:
            return self.path(text).stat().st_size
        except OSError:
            raise RpcError(Code.NOT_FOUND, f"content {text}: not found") from None


def content_methods(stores: Mapping[str, BlobDirectory]) -> dict[str, Handler]:
    """The service for the stores by their names (`oci:NAME`, `local:DIRECTORY`)."""

    def store_of(call: ServerCall, *, to_write: bool = False) -> BlobDirectory:
        name = call.metadata.get(_STORE_ID)
        store = stores.get(name)
        if store is None:
            raise RpcError(Code.NOT_FOUND, f"unknown content store {name!r}")
        if to_write and not store.is_writable:
            raise RpcError(Code.PERMISSION_DENIED, f"the content store {name!r} is only to be read")
        return store

    async def info(request: content.InfoRequest, call: ServerCall) -> content.InfoResponse:
        size = store_of(call).size(request.digest)
        return content.InfoResponse(info=content.Info(digest=request.digest, size=size))

    async def update(request: content.UpdateRequest, call: ServerCall) -> content.UpdateResponse:
        size = store_of(call, to_write=True).size(request.info.digest)
        return content.UpdateResponse(info=content.Info(digest=request.info.digest, size=size))

    async def read(call: ServerCall) -> None:
        request = await call.request(content.ReadContentRequest)
        store = store_of(call)
        size = store.size(request.digest)
        if not 0 <= request.offset <= size or request.size < 0:
            raise RpcError(Code.OUT_OF_RANGE, f"offset {request.offset} is outside of {request.digest}")
        end = size if not request.size else min(size, request.offset + request.size)
        with store.path(request.digest).open("rb") as stream:
            position = request.offset
            stream.seek(position)
            while position < end and (data := stream.read(min(_CHUNK, end - position))):
                await call.send(content.ReadContentResponse(offset=position, data=data))
                position += len(data)

    async def write(call: ServerCall) -> None:
        store = store_of(call, to_write=True)
        upload: _Upload | None = None
        try:
            async for request in call.messages(content.WriteContentRequest):
                if upload is None:
                    upload = _Upload(store, request.ref)
                answer = await asyncio.to_thread(upload.take, request)
                await call.send(answer)
                if answer.action == content.COMMIT:
                    return
        finally:
            if upload is not None:
                upload.close()

    async def no_status(request: content.StatusRequest, _call: ServerCall) -> content.StatusResponse:
        raise RpcError(Code.NOT_FOUND, f"ref {request.ref}: not found")

    async def no_statuses(
        _request: content.ListStatusesRequest, _call: ServerCall
    ) -> content.ListStatusesResponse:
        return content.ListStatusesResponse()

    async def abort(_request: content.AbortRequest, _call: ServerCall) -> wellknown.Empty:
        return wellknown.Empty()  # what is not whole goes with its call

    return {
        f"{_SERVICE}/Info": unary(content.InfoRequest, info),
        f"{_SERVICE}/Update": unary(content.UpdateRequest, update),
        f"{_SERVICE}/Read": read,
        f"{_SERVICE}/Write": write,
        f"{_SERVICE}/Status": unary(content.StatusRequest, no_status),
        f"{_SERVICE}/ListStatuses": unary(content.ListStatusesRequest, no_statuses),
        f"{_SERVICE}/Abort": unary(content.AbortRequest, abort),
    }


class _Upload:
    """One blob on its way into a store."""

    def __init__(self, store: BlobDirectory, ref: str) -> None:
        self._store = store
        self._ref = ref
        self._hash = hashlib.sha256()
        self._size = 0
        directory = store.root / "ingest"
        directory.mkdir(parents=True, exist_ok=True)
        self._file = tempfile.NamedTemporaryFile(dir=directory, delete=False)  # noqa: SIM115 (see close)

    def take(self, request: content.WriteContentRequest) -> content.WriteContentResponse:
        answer = content.WriteContentResponse(action=request.action, total=request.total)
        if (
            request.expected
            and request.action != content.STAT
            and self._store.path(request.expected).exists()
        ):
            raise RpcError(Code.ALREADY_EXISTS, f"content {request.expected}: already exists")
        if request.data:
            if request.offset != self._size:
                raise RpcError(Code.OUT_OF_RANGE, f"{self._ref}: offset {request.offset}, not {self._size}")
            self._file.write(request.data)
            self._hash.update(request.data)
            self._size += len(request.data)
        if request.action == content.COMMIT:
            answer.digest = self._commit(request)
        answer.offset = self._size
        return answer

    def _commit(self, request: content.WriteContentRequest) -> str:
        digest = f"sha256:{self._hash.hexdigest()}"
        if request.expected and request.expected != digest:
            raise RpcError(Code.FAILED_PRECONDITION, f"unexpected commit digest {digest}")
        if request.total and request.total != self._size:
            raise RpcError(Code.FAILED_PRECONDITION, f"unexpected commit size {self._size}")
        self._file.flush()
        os.fsync(self._file.fileno())
        path = self._store.path(digest)
        path.parent.mkdir(parents=True, exist_ok=True)
        os.chmod(self._file.name, 0o644)
        os.replace(self._file.name, path)
        return digest

    def close(self) -> None:
        self._file.close()
        Path(self._file.name).unlink(missing_ok=True)
