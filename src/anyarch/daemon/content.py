"""The service `containerd.services.content.v1.Content` on the control connection: the store's blobs and those
of build records, to be read only."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO

from anyarch.api.proto import content_pb2
from anyarch.api.rpc.server import unary
from anyarch.api.rpc.status import Code, RpcError
from anyarch.daemon.events import timestamp
from anyarch.errors import InvalidDigest
from anyarch.spec.digest import Digest
from anyarch.store.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from anyarch.api.rpc.server import Handler, ServerCall
    from anyarch.daemon.history import History

__all__ = ["content_methods"]

_PREFIX = "/containerd.services.content.v1.Content/"
_CHUNK = 1 << 20
_LISTED = 1000


def content_methods(root: Path, history: History) -> dict[str, Handler]:
    content = _Content(root, history)
    table: dict[str, Handler] = {
        "Info": unary(content_pb2.InfoRequest, content.info),
        "Read": content.read,
        "List": content.list,
    }
    for name in ("Update", "Delete", "Status", "ListStatuses", "Write", "Abort"):
        table[name] = _refuse
    return {_PREFIX + name: handler for name, handler in table.items()}


async def _refuse(call: ServerCall) -> None:
    raise RpcError(Code.UNIMPLEMENTED, "the content store is read-only here")


class _Content:
    def __init__(self, root: Path, history: History) -> None:
        self._root = root
        self._history = history

    @contextmanager
    def _find(self, text: str) -> Iterator[Path]:
        """Where a blob lies, held while it is read. Raises `RpcError`."""
        try:
            digest = Digest.parse(text)
        except InvalidDigest as error:
            raise RpcError(Code.INVALID_ARGUMENT, f"invalid digest {text!r}") from error
        recorded = self._history.blob(digest)
        if recorded is not None:
            yield recorded
            return
        with Store.open(self._root) as store:
            if not store.content.has(digest):
                raise RpcError(Code.NOT_FOUND, f"content {digest}: not found")
            yield store.content.path(digest)

    async def info(self, request: content_pb2.InfoRequest, call: ServerCall) -> content_pb2.InfoResponse:
        def look() -> content_pb2.Info:
            with self._find(request.digest) as path:
                return _info(request.digest, path)

        return content_pb2.InfoResponse(info=await asyncio.to_thread(look))

    async def list(self, call: ServerCall) -> None:
        await call.request(content_pb2.ListContentRequest)

        def look() -> list[content_pb2.Info]:
            with Store.open(self._root) as store:
                return [_info(digest, store.content.path(digest)) for digest in store.content]

        found = await asyncio.to_thread(look)
        for start in range(0, len(found), _LISTED):
            await call.send(content_pb2.ListContentResponse(info=found[start : start + _LISTED]))

    async def read(self, call: ServerCall) -> None:
        request = await call.request(content_pb2.ReadContentRequest)
        if request.offset < 0 or request.size < 0:
            raise RpcError(Code.OUT_OF_RANGE, "the offset lies outside of the content")

        def opened() -> tuple[BinaryIO, int]:
            with self._find(request.digest) as path:
                file = path.open("rb")
                return file, path.stat().st_size

        file, size = await asyncio.to_thread(opened)
        with file:
            if request.offset > size:
                raise RpcError(Code.OUT_OF_RANGE, f"read past object length {size} bytes")
            left = size - request.offset
            if request.size:
                left = min(left, request.size)
            position = request.offset
            file.seek(position)
            while left:
                data = await asyncio.to_thread(file.read, min(_CHUNK, left))
                if not data:
                    raise RpcError(Code.DATA_LOSS, f"content {request.digest} is cut short")
                await call.send(content_pb2.ReadContentResponse(offset=position, data=data))
                position += len(data)
                left -= len(data)


def _info(digest: str, path: Path) -> content_pb2.Info:
    status = path.stat()
    moment = timestamp(status.st_mtime)
    return content_pb2.Info(digest=digest, size=status.st_size, created_at=moment, updated_at=moment)
