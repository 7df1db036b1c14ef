"""The server side: methods by path, and calls that are answered."""

from __future__ import annotations

import asyncio
import traceback
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from anyarch.api.http2.errors import CANCEL, NO_ERROR
from anyarch.api.http2.header import encode_headers
from anyarch.api.rpc.messages import MAX_MESSAGE, Message, MessageStream
from anyarch.api.rpc.metadata import Metadata
from anyarch.api.rpc.status import Code, RpcError, encode_binary, encode_message, parse_timeout

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
    from typing import Any

    from anyarch.api.http2.header import Headers
    from anyarch.api.http2.stream import Stream

__all__ = ["Handler", "Server", "ServerCall", "deferred", "unary"]

Handler: TypeAlias = "Callable[[ServerCall], Coroutine[Any, Any, None]]"
"""Answers one call; what it raises becomes the call's status. Cancelled when the client gives up."""

Q = TypeVar("Q", bound=Message)

_RESPONSE = [(":status", "200"), ("content-type", "application/grpc")]
_RESPONSE_BLOCK = encode_headers(_RESPONSE)
_OK = encode_headers([("grpc-status", "0"), ("grpc-message", "")])
_MAX_DETAILS = 1 << 20


class ServerCall(MessageStream):
    """One call. `metadata` is what the client sent with it, `path` its method."""

    def __init__(self, stream: Stream, headers: Headers, peer: object, max_message: int) -> None:
        super().__init__(max_message)
        self.stream = stream
        self.metadata = Metadata(headers)
        self.path = self.metadata.get(":path")
        self.encoding = self.metadata.get("grpc-encoding")
        self.peer = peer
        """The connection that the call came on; calls of one client share it."""
        self.task: asyncio.Task[None] | None = None
        self._begun = False
        self._done = False

    async def request(self, kind: type[Q]) -> Q:
        """The one request of a call that has one. Raises `RpcError`."""
        message = await self.receive(kind)
        if message is None:
            raise RpcError(Code.INTERNAL, "the call has no request")
        return message

    def send_headers(self, metadata: Iterable[tuple[str, str]] = ()) -> None:
        """Begin the answer; done by itself before the first message."""
        if not self._begun:
            self._begun = True
            extra = list(metadata)
            self.stream.send_block(_RESPONSE_BLOCK + encode_headers(extra) if extra else _RESPONSE_BLOCK)

    def send_nowait(self, message: bytes) -> None:
        if not self._begun:
            self.send_headers()
        super().send_nowait(message)

    def end(self) -> None:
        """The handler's return is the end."""

    def close(self, error: RpcError | None = None) -> None:
        """End the call with a status, after what is pending."""
        if self._done:
            return
        self._done = True
        if error is None:
            self.send_headers()
            block = _OK
        else:
            trailers = [] if self._begun else list(_RESPONSE)
            trailers += [
                ("grpc-status", str(error.code)),
                ("grpc-message", encode_message(error.message[:16384])),
            ]
            if error.details and len(error.details) < _MAX_DETAILS:
                trailers.append(("grpc-status-details-bin", encode_binary(error.details)))
            block = encode_headers(trailers)
        stream = self.stream
        stream.end(block)
        if not stream.remote_closed and stream.local_closed:
            stream.reset(NO_ERROR)

    # from the connection ---------------------------------------------------------------------------

    def on_headers(self, headers: Headers) -> None:
        """Trailers of a request: gRPC has none."""

    def on_end(self) -> None:
        self.finish(None)

    def on_reset(self, code: int) -> None:
        self._done = True
        self.finish(RpcError(Code.CANCELLED, "context canceled"))
        if self.task is not None:
            self.task.cancel()

    def fail(self, error: RpcError) -> None:
        self.close(error)
        self.finish(error)
        if self.task is not None:
            self.task.cancel()


def unary(kind: type[Q], answer: Callable[[Q, ServerCall], Awaitable[Message]]) -> Handler:
    """A handler for one request and one answer."""

    async def handle(call: ServerCall) -> None:
        reply = await answer(await call.request(kind), call)
        call.send_nowait(reply.SerializeToString())

    return handle


def deferred(names: Iterable[str], make: Callable[[], Mapping[str, Handler]]) -> dict[str, Handler]:
    """The handlers `names` of those that `make` makes when one of them is called for the first time: for what
    few peers ask."""
    made: dict[str, Handler] = {}

    def handler(name: str) -> Handler:
        async def handle(call: ServerCall) -> None:
            if not made:
                made.update(make())
            await made[name](call)

        return handle

    return {name: handler(name) for name in names}


class Server:
    """Answers calls by a table of methods. An async context manager: leaving it cancels the calls that run.

    `translate` makes a status of any exception of a handler; `on_fault` is told of those that are faults of
    ours.
    """

    def __init__(
        self,
        methods: Mapping[str, Handler],
        *,
        translate: Callable[[Exception], RpcError] | None = None,
        on_fault: Callable[[str], None] | None = None,
        max_message: int = MAX_MESSAGE,
    ) -> None:
        self._methods = dict(methods)
        self._translate = translate or _plain_status
        self._on_fault = on_fault
        self._max_message = max_message
        self._tasks = asyncio.TaskGroup()
        self._running: set[asyncio.Task[None]] = set()
        self._idle: asyncio.Event = asyncio.Event()
        self._idle.set()

    @property
    def methods(self) -> tuple[str, ...]:
        return tuple(self._methods)

    async def __aenter__(self) -> Server:
        await self._tasks.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        for task in list(self._running):
            task.cancel()
        await self._tasks.__aexit__(None, None, None)

    async def idle(self) -> None:
        """Until no call runs."""
        await self._idle.wait()

    def open(self, stream: Stream, headers: Headers, peer: object) -> ServerCall:
        """Take a stream that a client opened."""
        call = ServerCall(stream, headers, peer, self._max_message)
        call.task = self._tasks.create_task(self._run(call))
        self._running.add(call.task)
        self._idle.clear()
        call.task.add_done_callback(self._finished)
        return call

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not self._running:
            self._idle.set()

    async def _run(self, call: ServerCall) -> None:
        try:
            error: RpcError | None = None
            try:
                await self._answer(call)
            except RpcError as failed:
                error = failed
            except asyncio.CancelledError:
                error = RpcError(Code.CANCELLED, "context canceled")
            except Exception as failed:
                error = self._translate(failed)
                if error.code == Code.INTERNAL and self._on_fault is not None:
                    self._on_fault(f"{call.path}: " + "".join(traceback.format_exception(failed)))
            call.close(error)
            # A slow reader still gets what is pending: its stream ends by itself.
        except asyncio.CancelledError:
            call.stream.reset(CANCEL)

    async def _answer(self, call: ServerCall) -> None:
        if call.metadata.get(":method") != "POST" or not call.metadata.get("content-type").startswith(
            "application/grpc"
        ):
            raise RpcError(Code.INTERNAL, "this is not a gRPC call")
        handler = self._methods.get(call.path)
        if handler is None:
            service, _, method = call.path.lstrip("/").rpartition("/")
            known = any(path.startswith(f"/{service}/") for path in self._methods)
            text = f"unknown method {method} for service {service}" if known else f"unknown service {service}"
            raise RpcError(Code.UNIMPLEMENTED, text)
        timeout = call.metadata.get("grpc-timeout")
        if not timeout:
            await handler(call)
            return
        try:
            async with asyncio.timeout(parse_timeout(timeout)):
                await handler(call)
        except TimeoutError:
            raise RpcError(Code.DEADLINE_EXCEEDED, "context deadline exceeded") from None


def _plain_status(error: Exception) -> RpcError:
    from anyarch.errors import AnyarchError, Canceled

    if isinstance(error, Canceled):
        return RpcError(Code.CANCELLED, error.message)
    if isinstance(error, AnyarchError):
        return RpcError(Code.UNKNOWN, error.message)
    return RpcError(Code.INTERNAL, f"{type(error).__name__}: {error}")
