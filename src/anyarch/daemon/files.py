"""Files that a client's frontend looks at: of results (`LLBBridge.ReadFile` and its like), and of its
containers (`ReadFileContainer` …), of each mount as its processes see them now."""

from __future__ import annotations

import asyncio
import posixpath
from typing import TYPE_CHECKING, Protocol

from anyarch.api.proto import fsutil_pb2, gateway_pb2
from anyarch.api.rpc.server import unary
from anyarch.api.rpc.status import Code, RpcError
from anyarch.daemon.solveerror import told_in_full
from anyarch.llb.definition import Definition
from anyarch.session.gomode import go_mode
from anyarch.spec.glob import match

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable
    from typing import Any, TypeVar

    from anyarch.api.rpc.server import Handler, ServerCall
    from anyarch.daemon.job import Job
    from anyarch.engine.gateway import EngineRef
    from anyarch.engine.workbench import Workbench
    from anyarch.frontend.gateway import FileStat
    from anyarch.snapshot.live import LiveFile, LiveTree

    T = TypeVar("T")
    JobOf = Callable[[ServerCall], Coroutine[Any, Any, Job]]
    Looking = gateway_pb2.ReadFileRequest | gateway_pb2.ReadDirRequest | gateway_pb2.StatFileRequest

__all__ = ["container_file_methods", "ref_file_methods"]

_MAX_FILE = 14 << 20
"""A file that is read has to fit into a message."""


class _Source(Protocol):
    """Where files are looked at, by what requests name it with."""

    async def read(self, call: ServerCall, request: gateway_pb2.ReadFileRequest) -> bytes:
        """What `_read_range` says of a file."""

    async def entries(
        self, call: ServerCall, request: gateway_pb2.ReadDirRequest
    ) -> Iterable[tuple[str, LiveFile | FileStat]]: ...

    async def stat(self, call: ServerCall, request: gateway_pb2.StatFileRequest) -> LiveFile | FileStat: ...


def ref_file_methods(job_of: JobOf) -> dict[str, Handler]:
    """Of results. `job_of` tells which build a call is about."""
    return _methods("", _Refs(job_of))


def container_file_methods(job_of: JobOf) -> dict[str, Handler]:
    """Of containers. `job_of` tells which build a call is about."""
    return _methods("Container", _Containers(job_of))


def _methods(suffix: str, source: _Source) -> dict[str, Handler]:
    async def read_file(
        request: gateway_pb2.ReadFileRequest, call: ServerCall
    ) -> gateway_pb2.ReadFileResponse:
        data = await source.read(call, request)
        if len(data) > _MAX_FILE:
            raise RpcError(Code.RESOURCE_EXHAUSTED, f"{request.FilePath} is too large for one message")
        return gateway_pb2.ReadFileResponse(Data=data)

    async def read_dir(request: gateway_pb2.ReadDirRequest, call: ServerCall) -> gateway_pb2.ReadDirResponse:
        found = await source.entries(call, request)
        pattern = request.IncludePattern
        entries = [_stat_message(file, name) for name, file in found if not pattern or match(pattern, name)]
        return gateway_pb2.ReadDirResponse(entries=entries)

    async def stat_file(
        request: gateway_pb2.StatFileRequest, call: ServerCall
    ) -> gateway_pb2.StatFileResponse:
        file = await source.stat(call, request)
        name = posixpath.basename(request.Path.rstrip("/")) or "/"
        return gateway_pb2.StatFileResponse(stat=_stat_message(file, name))

    return {
        f"ReadFile{suffix}": unary(gateway_pb2.ReadFileRequest, read_file),
        f"ReadDir{suffix}": unary(gateway_pb2.ReadDirRequest, read_dir),
        f"StatFile{suffix}": unary(gateway_pb2.StatFileRequest, stat_file),
    }


class _Refs:
    def __init__(self, job_of: JobOf) -> None:
        self._job_of = job_of

    async def read(self, call: ServerCall, request: gateway_pb2.ReadFileRequest) -> bytes:
        offset, length = _read_range(request)
        return await self._looked(
            call, request.Ref, lambda ref: ref.read_file(request.FilePath, offset=offset, length=length)
        )

    async def entries(
        self, call: ServerCall, request: gateway_pb2.ReadDirRequest
    ) -> list[tuple[str, FileStat]]:
        found = await self._looked(call, request.Ref, lambda ref: ref.read_dir(request.DirPath))
        return [(item.name, item.stat) for item in found]

    async def stat(self, call: ServerCall, request: gateway_pb2.StatFileRequest) -> FileStat:
        return await self._looked(call, request.Ref, lambda ref: ref.stat_file(request.Path))

    async def _looked(
        self, call: ServerCall, identity: str, look: Callable[[EngineRef], Coroutine[Any, Any, T]]
    ) -> T:
        job = await self._job_of(call)
        known = job.known(identity)

        async def work(bench: Workbench) -> T:
            return await look(known.ref if known.ref is not None else bench.load(Definition()))

        with told_in_full(job, [known.definition]):
            return await job.run(work)


class _Containers:
    def __init__(self, job_of: JobOf) -> None:
        self._job_of = job_of

    async def read(self, call: ServerCall, request: gateway_pb2.ReadFileRequest) -> bytes:
        offset, length = _read_range(request)
        return await self._looked(call, request, lambda tree: tree.read(request.FilePath, offset, length))

    async def entries(
        self, call: ServerCall, request: gateway_pb2.ReadDirRequest
    ) -> list[tuple[str, LiveFile]]:
        return await self._looked(call, request, lambda tree: tree.listdir(request.DirPath))

    async def stat(self, call: ServerCall, request: gateway_pb2.StatFileRequest) -> LiveFile:
        return await self._looked(call, request, lambda tree: tree.stat(request.Path))

    async def _looked(self, call: ServerCall, request: Looking, look: Callable[[LiveTree], T]) -> T:
        name, position = request.Ref, request.MountIndex
        job = await self._job_of(call)
        container = job.containers.get(name)
        if container is None:
            raise RpcError(Code.UNKNOWN, f"container details for {name}@{position} not found")

        async def work(bench: Workbench) -> T:
            tree = await container.files(position)
            return await asyncio.to_thread(look, tree)

        return await job.run(work)


def _read_range(request: gateway_pb2.ReadFileRequest) -> tuple[int, int]:
    """Offset and length that are asked for; one byte more than fits where that is the rest. Raises
    `RpcError`."""
    offset, length = 0, 0
    if request.HasField("Range"):
        offset, length = request.Range.Offset, request.Range.Length
    if offset < 0 or length < 0:
        raise RpcError(Code.INVALID_ARGUMENT, "invalid range")
    return offset, min(length or _MAX_FILE + 1, _MAX_FILE + 1)


def _stat_message(file: LiveFile | FileStat, name: str) -> fsutil_pb2.Stat:
    return fsutil_pb2.Stat(
        path=name,
        mode=go_mode(file.mode),
        uid=file.uid,
        gid=file.gid,
        size=file.size,
        modTime=file.mtime_ns,
        linkname=file.linkname,
    )
