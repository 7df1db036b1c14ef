"""The history of a daemon's builds: records from begin to end, whoever listens, and the replay of their logs.

`ListenBuildHistory` and `UpdateBuildHistory` of `moby.buildkit.v1.Control`. Everything runs on the daemon's
loop.
"""

from __future__ import annotations

import asyncio
import struct
import time
from typing import TYPE_CHECKING

from anyarch.api.proto.control_pb2 import (
    BuildHistoryEvent,
    BuildHistoryEventType,
    BuildHistoryRecord,
    BuildHistoryRequest,
    Exporter,
    StatusResponse,
    UpdateBuildHistoryRequest,
    UpdateBuildHistoryResponse,
)
from anyarch.api.proto.rpcstatus_pb2 import Status
from anyarch.api.proto.wellknown_pb2 import Timestamp
from anyarch.api.rpc.server import unary
from anyarch.api.rpc.status import Code, RpcError
from anyarch.errors import UsageError
from anyarch.history.filter import matcher

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from anyarch.api.proto.control_pb2 import BuildResultInfo
    from anyarch.api.rpc.server import Handler, ServerCall
    from anyarch.history.store import HistoryStore

__all__ = ["BuildHistory", "LogWriter"]

LOG_TYPE = "application/vnd.buildkit.status.v0"
ERROR_TYPE = "application/vnd.googeapis.google.rpc.status+proto"  # spelled so by all clients
_PREFIX = "/moby.buildkit.v1.Control/"
_LENGTH = struct.Struct("<I")
_COLLECT_EVERY_S = 120.0

STARTED = BuildHistoryEventType.STARTED
COMPLETE = BuildHistoryEventType.COMPLETE
DELETED = BuildHistoryEventType.DELETED


class LogWriter:
    """The log of one build: status messages with their lengths, and the counts that its record has."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._total: set[str] = set()
        self._cached: set[str] = set()
        self._completed: set[str] = set()
        self.warnings = 0

    def add(self, message: StatusResponse) -> None:
        raw = message.SerializeToString()
        self._parts += (_LENGTH.pack(len(raw)), raw)
        self.warnings += len(message.warnings)
        for vertex in message.vertexes:
            self._total.add(vertex.digest)
            if vertex.cached:
                self._cached.add(vertex.digest)
            if vertex.HasField("completed"):
                self._completed.add(vertex.digest)

    def content(self) -> bytes:
        return b"".join(self._parts)

    def count(self, record: BuildHistoryRecord) -> None:
        """Set the counts of a record."""
        record.numTotalSteps = len(self._total)
        record.numCachedSteps = len(self._cached)
        record.numCompletedSteps = len(self._completed)
        record.numWarnings = self.warnings


class BuildHistory:
    """Records builds that are not internal. `begin` and `complete` frame each; a build of which the process
    dies leaves no record."""

    def __init__(self, store: HistoryStore) -> None:
        self._store = store
        self._active: dict[str, BuildHistoryRecord] = {}
        self._deleted: set[str] = set()  # still being listened to
        self._listening: dict[str, int] = {}
        self._listeners: set[asyncio.Queue[BuildHistoryEvent]] = set()
        self._collected_at = 0.0

    # the builds ------------------------------------------------------------------------------------

    def begin(
        self,
        ref: str,
        *,
        frontend: str,
        attrs: Mapping[str, str],
        exporters: Iterable[tuple[str, Mapping[str, str]]] = (),
    ) -> None:
        record = BuildHistoryRecord(Ref=ref, Frontend=frontend, FrontendAttrs=dict(attrs), CreatedAt=_now())
        for kind, values in exporters:
            record.Exporters.append(Exporter(Type=kind, Attrs=dict(values)))
        self._active[ref] = record
        self._tell(STARTED, record)

    def complete(
        self,
        ref: str,
        log: LogWriter,
        *,
        error: RpcError | None = None,
        response: Mapping[str, str] | None = None,
        result: BuildResultInfo | None = None,
        results: Mapping[str, BuildResultInfo] | None = None,
    ) -> None:
        """Keep the record of a build that ended. Raises `StoreError` where the disk does not take it."""
        record = self._active.pop(ref, None)
        if record is None:
            return
        record.CompletedAt.CopyFrom(_now())
        log.count(record)
        for name, value in (response or {}).items():
            record.ExporterResponse[name] = value
        if result is not None:
            record.Result.CopyFrom(result)
        for name, info in (results or {}).items():
            record.Results[name].CopyFrom(info)
        if error is not None:
            record.error.CopyFrom(Status(code=error.code, message=error.message))
            whole = error.details or record.error.SerializeToString()
            record.externalError.CopyFrom(self._store.put_blob(whole, ERROR_TYPE))
        record.logs.CopyFrom(self._store.put_blob(log.content(), LOG_TYPE))
        record.Generation += 1
        self._store.put(record)
        self._tell(COMPLETE, record)
        self._collect()

    def status_log(self, ref: str) -> Iterator[StatusResponse] | None:
        """The progress of a build that has ended, from its log; None when there is no record of it."""
        if ref in self._deleted:
            return None
        record = self._store.get(ref)
        if record is None:
            return None
        path = self._store.blob(record.logs.digest)
        return _messages(path.read_bytes() if path is not None else b"")

    # the service -----------------------------------------------------------------------------------

    def methods(self) -> dict[str, Handler]:
        return {
            _PREFIX + "ListenBuildHistory": self.listen,
            _PREFIX + "UpdateBuildHistory": unary(UpdateBuildHistoryRequest, self.update),
        }

    async def listen(self, call: ServerCall) -> None:
        request = await call.request(BuildHistoryRequest)
        try:
            matches = matcher(request.Filter)
        except UsageError as error:
            raise RpcError(Code.INVALID_ARGUMENT, error.message) from None
        if request.Limit < 0:
            raise RpcError(Code.INVALID_ARGUMENT, f"invalid limit {request.Limit}")
        if request.Ref and request.Ref in self._deleted:
            raise RpcError(Code.NOT_FOUND, f"ref {request.Ref} is deleted: file does not exist")
        queue: asyncio.Queue[BuildHistoryEvent] = asyncio.Queue()
        self._listeners.add(queue)
        self._listening[request.Ref] = self._listening.get(request.Ref, 0) + 1
        try:
            for event in self._known(request, matches):
                await call.send(event)
            while not request.EarlyExit:
                event = await queue.get()
                if request.Ref in ("", event.record.Ref):
                    await call.send(event)
        finally:
            self._listeners.discard(queue)
            self._left(request.Ref)

    async def update(
        self, request: UpdateBuildHistoryRequest, _call: ServerCall
    ) -> UpdateBuildHistoryResponse:
        """Delete, pin or unpin; all of a record is on disk at its end, so there is nothing to finalize."""
        ref = request.Ref
        record = self._store.get(ref) if ref not in self._deleted else None
        if request.Delete:
            if record is None:
                raise RpcError(Code.NOT_FOUND, f"failed to retrieve ref {ref}: file does not exist")
            self._tell(DELETED, record)
            if self._listening.get(ref):
                self._deleted.add(ref)
            else:
                self._store.delete(ref)
            return UpdateBuildHistoryResponse()
        if record is None:
            if request.Finalize and ref in self._active:
                return UpdateBuildHistoryResponse()
            raise RpcError(Code.NOT_FOUND, f"failed to retrieve ref {ref}: file does not exist")
        if not request.Finalize:
            record.pinned = request.Pinned
            record.Generation += 1
            self._store.put(record)
            self._tell(COMPLETE, record)
        return UpdateBuildHistoryResponse()

    def _known(
        self, request: BuildHistoryRequest, matches: Callable[[BuildHistoryRecord], bool]
    ) -> Sequence[BuildHistoryEvent]:
        """What there is when somebody begins to listen: running builds, then those that have ended."""
        refs = (request.Ref,) if request.Ref else ()
        events = [
            BuildHistoryEvent(type=STARTED, record=record)
            for record in self._active.values()
            if not refs or record.Ref in refs
        ]
        if request.ActiveOnly:
            return events
        if refs:
            found = self._store.get(request.Ref)
            records = [found] if found is not None else []
        else:
            records = self._store.all()
        records = [record for record in records if record.Ref not in self._deleted and matches(record)]
        if request.Limit:
            records.sort(key=lambda r: (r.CreatedAt.seconds, r.CreatedAt.nanos), reverse=True)
            del records[request.Limit :]
        return events + [BuildHistoryEvent(type=COMPLETE, record=record) for record in records]

    def _left(self, ref: str) -> None:
        self._listening[ref] -= 1
        if not self._listening[ref]:
            del self._listening[ref]
            if ref in self._deleted:
                self._deleted.discard(ref)
                self._store.delete(ref)

    def _tell(self, kind: BuildHistoryEventType, record: BuildHistoryRecord) -> None:
        event = BuildHistoryEvent(type=kind, record=record)
        for queue in self._listeners:
            queue.put_nowait(event)

    def _collect(self) -> None:
        now = time.monotonic()
        if now - self._collected_at > _COLLECT_EVERY_S:
            self._collected_at = now
            for record in self._store.collect():
                self._tell(DELETED, record)


def _now() -> Timestamp:
    seconds, nanos = divmod(time.time_ns(), 1_000_000_000)
    return Timestamp(seconds=seconds, nanos=nanos)


def _messages(raw: bytes) -> Iterator[StatusResponse]:
    position = 0
    while position + _LENGTH.size <= len(raw):
        (size,) = _LENGTH.unpack_from(raw, position)
        position += _LENGTH.size
        yield StatusResponse.FromString(raw[position : position + size])
        position += size
