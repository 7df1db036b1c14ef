"""From a byte stream to a BuildKit daemon to a `NodeClient`.

The stream is read and written by two tasks that end with the client; what the daemon's end of it does shows
as `NodeLost`, so that the node's work can go elsewhere.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from anyarch.api.proto import wellknown_pb2 as wellknown
from anyarch.api.rpc.client import Channel
from anyarch.api.rpc.link import Link
from anyarch.builder.driver import Device, PruneRule, WorkerInfo
from anyarch.builder.remote import RemoteBuilder
from anyarch.errors import AnyarchError, Canceled, NodeLost, ProtocolError
from anyarch.spec.platform import Platform

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from anyarch.api.proto import control_pb2 as control
    from anyarch.builder.stream import ByteStream
    from anyarch.engine.request import BuildRequest, BuildResult, CancelToken
    from anyarch.solver.events import EventSink

__all__ = ["WireClient", "open_client"]

SILENCE_S = 15.0
"""After so long without a byte of the daemon it is asked whether it is well."""
ANSWER_S = 45.0
"""So long it has for the answer; machines can be busy."""
_HEALTH = "/grpc.health.v1.Health/Check"
_READ_SIZE = 256 << 10
_FULL = 4 << 20


class _StreamCarrier:
    """Carries a link over a `ByteStream`. `reason` is why it ended."""

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream
        self._waiting: list[bytes] = []
        self._size = 0
        self._wake = asyncio.Event()
        self.is_over = False
        self.heard = asyncio.get_running_loop().time()
        """When the last bytes came."""
        self.reason = "the connection was closed"
        self.link = Link(self, client=True)
        self._tasks = [asyncio.create_task(self._send()), asyncio.create_task(self._receive())]
        self.link.start()

    def write(self, data: bytes) -> None:
        if self.is_over:
            return
        self._waiting.append(data)
        self._size += len(data)
        self._wake.set()
        if self._size > _FULL:
            self.link.connection.pause()

    def close(self) -> None:
        self.is_over = True
        self._wake.set()

    async def end(self) -> None:
        """Close the stream and wait for the tasks."""
        self.is_over = True
        self._wake.set()
        _, late = await asyncio.wait(self._tasks[:1], timeout=1.0)  # GOAWAY is on its way
        for task in [*late, *self._tasks]:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._stream.close()

    async def _send(self) -> None:
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                data, self._waiting, self._size = b"".join(self._waiting), [], 0
                if data:
                    await self._stream.write(data)
                    self.link.connection.resume()
                elif self.is_over:
                    return
                if self.is_over:
                    self._wake.set()
        except AnyarchError as error:
            self.lost(error.message)

    async def _receive(self) -> None:
        try:
            while data := await self._stream.read(_READ_SIZE):
                self.heard = asyncio.get_running_loop().time()
                self.link.feed(data)
            self.lost("")
        except AnyarchError as error:
            self.lost(error.message)

    def lost(self, reason: str) -> None:
        """The peer is gone: whoever waits for it is told."""
        self.reason = reason or self.reason
        self.is_over = True
        self.link.ended()


class WireClient:
    """A `NodeClient` of a daemon elsewhere."""

    def __init__(self, carrier: _StreamCarrier, label: str, authority: str) -> None:
        self._carrier = carrier
        self._label = label
        self._channel = Channel(carrier.link.connection, authority=authority or "localhost")
        self.builder = RemoteBuilder(self._channel, label, carrier.end)

    async def workers(self) -> list[WorkerInfo]:
        return [_worker(record) for record in await self._ask(self.builder.list_workers())]

    async def version(self) -> str:
        return str(await self._ask(self.builder.version()))

    async def build(
        self, request: BuildRequest, on_event: EventSink, cancel: CancelToken | None
    ) -> BuildResult:
        watch = asyncio.create_task(self._watch())
        try:
            return await self.builder.build(request, on_event, cancel)
        except Canceled as error:
            if cancel is not None and cancel.is_set():
                raise
            if self._carrier.is_over:
                raise self._judged(error) from None
            # A daemon that is told to end gives its builds up before it goes.
            raise NodeLost(f"{self._label}: the daemon gave the build up: {error.message}") from None
        except AnyarchError as error:
            raise self._judged(error) from error
        finally:
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)

    async def _watch(self) -> None:
        """Let a daemon go that gives no sign of life: one that hangs, or that is behind a tunnel (ssh, exec)
        whose other end is gone. The kernel sees neither."""
        clock = asyncio.get_running_loop().time
        while not self._carrier.is_over:
            await asyncio.sleep(max(0.0, self._carrier.heard + SILENCE_S - clock()))
            if clock() - self._carrier.heard < SILENCE_S:
                continue
            question = asyncio.create_task(self._channel.unary(_HEALTH, wellknown.Empty(), wellknown.Empty))
            await asyncio.wait([question], timeout=ANSWER_S)
            question.cancel()
            await asyncio.gather(question, return_exceptions=True)  # an error is a sign of life, too
            silent_s = clock() - self._carrier.heard
            if silent_s >= SILENCE_S + ANSWER_S:
                self._carrier.lost(f"the daemon has given no sign of life for {silent_s:.0f} seconds")

    async def disk_usage(self, request: control.DiskUsageRequest) -> list[Any]:
        """The daemon's records."""
        found: list[Any] = await self._ask(self.builder.disk_usage(request))
        return found

    async def prune(self, request: control.PruneRequest, on_record: Callable[[Any], None]) -> None:
        await self._ask(self.builder.prune(request, on_record))

    async def history(self, request: control.BuildHistoryRequest) -> tuple[list[Any], str]:
        """As `RemoteBuilder.history`."""
        found: tuple[list[Any], str] = await self._ask(self.builder.history(request))
        return found

    async def delete_record(self, ref: str) -> None:
        await self._ask(self.builder.delete_record(ref))

    async def follow(self, ref: str, emit: EventSink) -> None:
        await self._ask(self.builder.follow(ref, emit))

    async def read_blob(self, digest: str) -> bytes:
        return bytes(await self._ask(self.builder.read_blob(digest)))

    async def close(self) -> None:
        await self.builder.close()

    async def _ask(self, question: Awaitable[Any]) -> Any:
        try:
            return await question
        except AnyarchError as error:
            raise self._judged(error) from error

    def _judged(self, error: AnyarchError) -> AnyarchError:
        """What the end of the connection made of a call is told as that."""
        if self._carrier.is_over:
            return NodeLost(f"{self._label}: {self._carrier.reason}")
        if isinstance(error, ProtocolError):
            return NodeLost(error.message, hint=error.hint)
        return error


def _worker(record: Any) -> WorkerInfo:
    return WorkerInfo(
        id=record.ID,
        platforms=tuple(
            Platform.make(item.OS, item.Architecture, item.Variant, item.OSVersion)
            for item in record.platforms
        ),
        labels=dict(record.Labels),
        gc_policy=tuple(
            PruneRule(
                all=rule.all,
                filters=tuple(rule.filters),
                keep_duration_s=rule.keepDuration // 1_000_000_000,
                reserved_space=rule.reservedSpace,
                max_used_space=rule.maxUsedSpace,
                min_free_space=rule.minFreeSpace,
            )
            for rule in record.GCPolicy
        ),
        devices=tuple(
            Device(
                name=item.Name,
                auto_allow=item.AutoAllow,
                on_demand=item.OnDemand,
                annotations=dict(item.Annotations),
            )
            for item in record.CDIDevices
        ),
    )


async def open_client(
    dial: Callable[[], Awaitable[ByteStream]], label: str, *, authority: str = ""
) -> WireClient:
    """A client of the daemon that `dial` connects to; `label` names it in errors. Raises `NodeLost`."""
    return WireClient(_StreamCarrier(await dial()), label, authority)
