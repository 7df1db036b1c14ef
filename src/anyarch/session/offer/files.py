"""The directories that a build may read: FileSync, filtered here, so that nothing else leaves the machine;
and an archive from standard input: Upload."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, BinaryIO

from anyarch.api.rpc.status import Code, RpcError
from anyarch.api.rpc.tunnel import data_message
from anyarch.session.sender import send_tree

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anyarch.api.rpc.metadata import Metadata
    from anyarch.api.rpc.server import Handler, ServerCall
    from anyarch.snapshot.hosttree import HostTree

__all__ = ["directory_methods", "listed_values", "upload_methods"]

_DIFF_COPY = "/moby.filesync.v1.FileSync/DiffCopy"
_PULL = "/moby.upload.v1.Upload/Pull"
_CHUNK = 1 << 20


def directory_methods(directories: Mapping[str, str]) -> dict[str, Handler]:
    """Serves the directories by the names that the build has for them (`context`, `dockerfile`, …)."""

    async def diff_copy(call: ServerCall) -> None:
        name = call.metadata.get("dir-name")
        path = directories.get(name)
        if path is None:
            raise RpcError(Code.NOT_FOUND, f"no access allowed to dir {name!r}")
        tree = await asyncio.to_thread(_scan, path, call.metadata)
        await send_tree(tree, _Packets(call))

    return {_DIFF_COPY: diff_copy}


class _Packets:
    """A call as a `PacketStream`."""

    def __init__(self, call: ServerCall) -> None:
        self._call = call

    async def receive(self) -> bytes | None:
        return await self._call.recv()

    async def send(self, message: bytes) -> None:
        await self._call.send(message)


def _scan(path: str, metadata: Metadata) -> HostTree:
    from anyarch.source.local import scan
    from anyarch.spec.pattern import PatternMatcher

    return scan(
        path,
        store=None,
        patterns=PatternMatcher,
        include=listed_values(metadata, "include-patterns"),
        exclude=listed_values(metadata, "exclude-patterns"),
        follow=listed_values(metadata, "followpaths"),
    )


def listed_values(metadata: Metadata, key: str) -> list[str]:
    """The values of a key; where one of them is not ASCII all are query-escaped, and a further key says
    so."""
    values = metadata.all(key)
    if metadata.get(f"{key}-encoded") != "1":
        return values
    from urllib.parse import unquote_plus

    return [unquote_plus(value) for value in values]


def upload_methods(uploads: Mapping[str, BinaryIO]) -> dict[str, Handler]:
    """Serves each stream once, by the path of its URL."""
    left = dict(uploads)

    async def pull(call: ServerCall) -> None:
        stream = left.pop(call.metadata.get("urlpath").strip("/"), None)
        if stream is None:
            raise RpcError(Code.NOT_FOUND, "no such upload, or it was taken already")
        while chunk := await asyncio.to_thread(stream.read, _CHUNK):
            await call.send(data_message(chunk))

    return {_PULL: pull}
