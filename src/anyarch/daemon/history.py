"""Build records: what was built, how it ended, its log. Kept as files below the store's root, so that a
collection of the store leaves them, and read by clients through the services Control and Content.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING, TypeAlias

from anyarch.api.proto import control_pb2
from anyarch.api.rpc.status import Code, RpcError
from anyarch.daemon.events import status_messages, timestamp
from anyarch.daemon.failure import status_of
from anyarch.daemon.spans import TRACE_TYPE, trace_of
from anyarch.solver.events import VertexEvent, WarningEvent
from anyarch.spec.intoto import PAYLOAD_TYPE, PREDICATE_TYPE, SLSA_PROVENANCE

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping
    from pathlib import Path

    from anyarch.daemon.job import Job

__all__ = ["History"]

_LOG_TYPE = "application/vnd.buildkit.status.v0"
_ERROR_TYPE = "application/vnd.googeapis.google.rpc.status+proto"  # spelled so by BuildKit
_SLSA = f"{SLSA_PROVENANCE}v1"
_MAX_ENTRIES = 50
_MOST_UNREAD = 1000
"""Events that wait for a listener."""
_MAX_AGE_S = 48 * 3600.0

Event = control_pb2.BuildHistoryEvent
_Queue: TypeAlias = "asyncio.Queue[control_pb2.BuildHistoryEvent | None]"
"""Of a listener; None: it is too far behind."""


class History:
    """Belongs to the wire's loop. Records go when there are more than `entries` and they are older than
    `age_s`, unless pinned."""

    def __init__(self, root: Path, *, entries: int = _MAX_ENTRIES, age_s: float = _MAX_AGE_S) -> None:
        self._root = root / "history"
        self._entries = entries
        self._age_s = age_s
        self._active: dict[str, control_pb2.BuildHistoryRecord] = {}
        self._done: dict[str, control_pb2.BuildHistoryRecord] | None = None
        self._listeners: set[_Queue] = set()

    # writing ---------------------------------------------------------------------------------------

    def begin(self, job: Job) -> None:
        """A build has begun."""
        request = job.request
        record = control_pb2.BuildHistoryRecord(
            Ref=request.Ref,
            Frontend=request.Frontend,
            FrontendAttrs=dict(request.FrontendAttrs),
            Exporters=list(request.Exporters),
            CreatedAt=timestamp(time.time()),
        )
        self._active[request.Ref] = record
        self._tell(Event(type=control_pb2.STARTED, record=record))

    async def finish(
        self,
        job: Job,
        *,
        response: Mapping[str, str] | None,
        error: RpcError | None,
        results: Mapping[int, Mapping[str, object]],
    ) -> None:
        """It has ended; its log is complete."""
        record = self._active.pop(job.ref, None)
        if record is None:
            return
        events = list(job.log.events)
        vertices = {event.digest: event for event in events if isinstance(event, VertexEvent)}
        began = record.CreatedAt.seconds + record.CreatedAt.nanos / 1e9
        ended = max(time.time(), began)  # clocks are set back, too
        record.CompletedAt.CopyFrom(timestamp(ended))
        record.numTotalSteps = len(vertices)
        record.numCachedSteps = sum(event.cached for event in vertices.values())
        record.numCompletedSteps = sum(event.completed is not None for event in vertices.values())
        record.numWarnings = sum(isinstance(event, WarningEvent) for event in events)
        for key, value in (response or {}).items():
            record.ExporterResponse[key] = value
        for number, descriptor in results.items():
            record.Result.Results[number].CopyFrom(_descriptor(descriptor))
        if results:
            record.Result.ResultDeprecated.CopyFrom(record.Result.Results[min(results)])
        record.Generation = 1
        told = error.message if error is not None else ""
        trace = trace_of(job.ref, events, began=began, ended=ended, error=told, parent=job.trace_parent)
        log = b"".join(
            len(raw).to_bytes(4, "little") + raw
            for raw in (message.SerializeToString() for message in status_messages(events))
        )

        def keep() -> None:
            for name, raw in job.provenance.items():
                item = self._blob(raw, PAYLOAD_TYPE)
                item.annotations[PREDICATE_TYPE] = _SLSA
                (record.Results[name] if name else record.Result).Attestations.append(item)
            for raw in job.manifests.values():  # a collection may take those of the store
                self._blob(raw, "")
            record.logs.CopyFrom(self._blob(log, _LOG_TYPE))
            record.trace.CopyFrom(self._blob(trace, TRACE_TYPE))
            if error is not None:
                status = status_of(error)
                record.error.code, record.error.message = status.code, status.message
                record.externalError.CopyFrom(self._blob(status.SerializeToString(), _ERROR_TYPE))
            self._write(record)

        known = await asyncio.to_thread(self._read_all)
        self._done = self._done if self._done is not None else known
        await asyncio.to_thread(keep)
        self._done[record.Ref] = record
        self._tell(Event(type=control_pb2.COMPLETE, record=record))
        await self._drop_old()

    async def update(self, request: control_pb2.UpdateBuildHistoryRequest) -> None:
        """Delete, pin or finalize a record. Raises `RpcError`."""
        done = await self._records()
        record = done.get(request.Ref)
        if request.Finalize and (record is not None or request.Ref in self._active):
            return  # everything of a record is written when the build ends
        if record is None:
            raise RpcError(Code.NOT_FOUND, f"record not found: {request.Ref}")
        if request.Delete:
            await self._delete(record)
            return
        record.pinned = request.Pinned
        record.Generation += 1
        await asyncio.to_thread(self._write, record)
        self._tell(Event(type=control_pb2.COMPLETE, record=record))

    async def _delete(self, record: control_pb2.BuildHistoryRecord) -> None:
        done = await self._records()
        done.pop(record.Ref, None)
        await asyncio.to_thread(self._remove, record, list(done.values()))
        self._tell(Event(type=control_pb2.DELETED, record=record))

    async def _drop_old(self) -> None:
        done = await self._records()
        oldest = sorted(done.values(), key=lambda record: record.CompletedAt.seconds)
        excess = len(oldest) - self._entries
        limit = time.time() - self._age_s
        for record in oldest:
            if excess <= 0:
                return
            if not record.pinned and record.CompletedAt.seconds < limit:
                await self._delete(record)
                excess -= 1

    # reading ---------------------------------------------------------------------------------------

    async def listen(
        self, request: control_pb2.BuildHistoryRequest
    ) -> AsyncGenerator[control_pb2.BuildHistoryEvent, None]:
        """Events as a request wants them: what runs, what has ended, then what happens. Raises `RpcError`."""
        from anyarch.daemon.historyfilter import parse_filters

        matches = parse_filters(list(request.Filter), time.time())
        queue: _Queue = asyncio.Queue()
        done = await self._records()
        self._listeners.add(queue)
        try:
            ref = request.Ref
            found = [
                Event(type=control_pb2.STARTED, record=record)
                for record in self._active.values()
                if (not ref or record.Ref == ref) and matches(record)
            ]
            if not request.ActiveOnly:
                found += [
                    Event(type=control_pb2.COMPLETE, record=record)
                    for record in done.values()
                    if (not ref or record.Ref == ref) and matches(record)
                ]
            if request.Limit > 0:
                found.sort(key=lambda event: event.record.CreatedAt.seconds, reverse=True)
                found = found[: request.Limit]
            for event in found:
                yield event
            if request.EarlyExit:
                return
            while True:
                heard = await queue.get()
                if heard is None:
                    raise RpcError(Code.RESOURCE_EXHAUSTED, f"more than {_MOST_UNREAD} events were not read")
                if (not ref or heard.record.Ref == ref) and matches(heard.record):
                    yield heard
        finally:
            self._listeners.discard(queue)

    def log_path(self, ref: str) -> Path | None:
        """Where the log of a finished build lies."""
        record = (self._done or {}).get(ref)
        return self._blob_path(record.logs.digest) if record is not None else None

    async def stored_log(self, ref: str) -> list[bytes] | None:
        """The messages of the log of a finished build; None for one that is not known."""
        record = (await self._records()).get(ref)
        if record is None:
            return None
        raw = await asyncio.to_thread(self._blob_path(record.logs.digest).read_bytes)
        messages, position = [], 0
        while position + 4 <= len(raw):
            size = int.from_bytes(raw[position : position + 4], "little")
            messages.append(raw[position + 4 : position + 4 + size])
            position += 4 + size
        return messages

    def blob(self, digest: str) -> Path | None:
        """A blob of a record."""
        path = self._blob_path(digest)
        return path if path.is_file() else None

    async def _records(self) -> dict[str, control_pb2.BuildHistoryRecord]:
        if self._done is None:
            known = await asyncio.to_thread(self._read_all)
            self._done = self._done if self._done is not None else known
        return self._done

    def _tell(self, event: control_pb2.BuildHistoryEvent) -> None:
        copy = Event.FromString(event.SerializeToString())
        for queue in [*self._listeners]:
            if queue.qsize() >= _MOST_UNREAD:
                self._listeners.discard(queue)
                queue.put_nowait(None)
            else:
                queue.put_nowait(copy)

    # files -----------------------------------------------------------------------------------------

    def _read_all(self) -> dict[str, control_pb2.BuildHistoryRecord]:
        from google.protobuf.message import DecodeError

        records = {}
        for path in sorted(self._root.glob("*.record")):
            try:
                record = control_pb2.BuildHistoryRecord.FromString(path.read_bytes())
            except (DecodeError, OSError):
                continue  # of a release that wrote it otherwise, or gone meanwhile
            records[record.Ref] = record
        return records

    def _path(self, ref: str) -> Path:
        return self._root / f"{hashlib.sha256(ref.encode()).hexdigest()[:40]}.record"

    def _blob_path(self, digest: str) -> Path:
        algorithm, _, text = digest.partition(":")
        if algorithm != "sha256" or not (len(text) == 64 and text.isalnum()):
            return self._root / "blobs" / "none"
        return self._root / "blobs" / text

    def _write(self, record: control_pb2.BuildHistoryRecord) -> None:
        self._root.mkdir(parents=True, exist_ok=True)
        _replace(self._path(record.Ref), record.SerializeToString())

    def _blob(self, raw: bytes, media_type: str) -> control_pb2.Descriptor:
        digest = hashlib.sha256(raw).hexdigest()
        path = self._root / "blobs" / digest
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            _replace(path, raw)
        return control_pb2.Descriptor(media_type=media_type, digest=f"sha256:{digest}", size=len(raw))

    def _remove(
        self, record: control_pb2.BuildHistoryRecord, others: list[control_pb2.BuildHistoryRecord]
    ) -> None:
        with suppress(FileNotFoundError):
            self._path(record.Ref).unlink()
        used = {item.digest for other in others for item in _blobs_of(other)}
        for item in _blobs_of(record):
            if item.digest and item.digest not in used:
                with suppress(FileNotFoundError):
                    self._blob_path(item.digest).unlink()


def _blobs_of(record: control_pb2.BuildHistoryRecord) -> tuple[control_pb2.Descriptor, ...]:
    infos = (record.Result, *record.Results.values())
    attestations = [item for info in infos for item in info.Attestations]
    images = [item for info in infos for item in info.Results.values()]
    return record.logs, record.externalError, record.trace, *attestations, *images


def _replace(path: Path, raw: bytes) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_bytes(raw)
    temporary.replace(path)


def _descriptor(value: Mapping[str, object]) -> control_pb2.Descriptor:
    annotations = value.get("annotations")
    size = value.get("size", 0)
    return control_pb2.Descriptor(
        media_type=str(value.get("mediaType", "")),
        digest=str(value.get("digest", "")),
        size=size if isinstance(size, int) else 0,
        annotations=annotations if isinstance(annotations, dict) else {},
    )
