"""The daemon's blobs for its clients: containerd's content service, to be read only. Build records name what
lies here: logs, errors, images that are kept in the store."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, BinaryIO

from anyarch.api.proto.content_pb2 import (
    Info,
    InfoRequest,
    InfoResponse,
    ListContentRequest,
    ListContentResponse,
    ReadContentRequest,
    ReadContentResponse,
)
from anyarch.api.rpc.server import unary
from anyarch.api.rpc.status import Code, RpcError
from anyarch.errors import AnyarchError

if TYPE_CHECKING:
    from anyarch.api.rpc.server import Handler, ServerCall
    from anyarch.history.store import HistoryStore
    from anyarch.store.content import ContentStore

__all__ = ["content_methods"]

_SERVICE = "/containerd.services.content.v1.Content/"
_CHUNK = 1 << 20
_READ_ONLY = ("Update", "Delete", "Write", "Abort")
_BATCH = 100


def content_methods(content: ContentStore, history: HistoryStore) -> dict[str, Handler]:
    """Handlers over both; what would write is refused."""

    def size_of(digest: str) -> int:
        path = history.blob(digest)
        if path is not None:
            return path.stat().st_size
        try:
            return content.size(digest)
        except AnyarchError:
            raise RpcError(Code.NOT_FOUND, f"content {digest}: not found") from None

    def opened(digest: str) -> BinaryIO:
        path = history.blob(digest)
        return path.open("rb") if path is not None else content.open(digest)

    async def info(request: InfoRequest, _call: ServerCall) -> InfoResponse:
        size = await asyncio.to_thread(size_of, request.digest)
        return InfoResponse(info=Info(digest=request.digest, size=size))

    async def read(call: ServerCall) -> None:
        request = await call.request(ReadContentRequest)
        size = await asyncio.to_thread(size_of, request.digest)
        if not 0 <= request.offset <= size or request.size < 0:
            raise RpcError(Code.OUT_OF_RANGE, f"offset {request.offset} is outside of {request.digest}")
        position = request.offset
        end = size if not request.size else min(size, position + request.size)
        with await asyncio.to_thread(opened, request.digest) as stream:
            stream.seek(position)
            while position < end:
                data = await asyncio.to_thread(stream.read, min(_CHUNK, end - position))
                if not data:
                    raise RpcError(Code.DATA_LOSS, f"{request.digest} is shorter than recorded")
                await call.send(ReadContentResponse(offset=position, data=data))
                position += len(data)

    def everything() -> list[Info]:
        found = {str(digest): content.size(digest) for digest in content}
        found.update(history.blobs())
        return [Info(digest=digest, size=size) for digest, size in sorted(found.items())]

    async def listing(call: ServerCall) -> None:
        request = await call.request(ListContentRequest)
        if any(request.filters):
            raise RpcError(Code.UNIMPLEMENTED, "filters of content are not supported")
        infos = await asyncio.to_thread(everything)
        for start in range(0, len(infos), _BATCH):
            await call.send(ListContentResponse(info=infos[start : start + _BATCH]))

    async def refuse(_call: ServerCall) -> None:
        raise RpcError(Code.UNIMPLEMENTED, "the content of a daemon is read-only")

    return {
        _SERVICE + "Info": unary(InfoRequest, info),
        _SERVICE + "Read": read,
        _SERVICE + "List": listing,
        **{_SERVICE + name: refuse for name in _READ_ONLY},
    }
