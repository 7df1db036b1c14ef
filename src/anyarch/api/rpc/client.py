"""The client side: a channel over a connection, and calls on it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

from anyarch.api.http2 import errors
from anyarch.api.http2.errors import CANCEL, NO_ERROR, REFUSED_STREAM
from anyarch.api.rpc.messages import MAX_MESSAGE, Message, MessageStream, parse
from anyarch.api.rpc.metadata import Metadata
from anyarch.api.rpc.status import Code, RpcError, decode_binary, decode_message
from anyarch.spec.number import natural

if TYPE_CHECKING:
    from collections.abc import Iterable

    from anyarch.api.http2.connection import Connection
    from anyarch.api.http2.header import Headers

__all__ = ["Channel", "ClientCall"]

M = TypeVar("M", bound=Message)

_HTTP_CODES = {
    400: Code.INTERNAL,
    401: Code.UNAUTHENTICATED,
    403: Code.PERMISSION_DENIED,
    404: Code.UNIMPLEMENTED,
    429: Code.UNAVAILABLE,
    502: Code.UNAVAILABLE,
    503: Code.UNAVAILABLE,
    504: Code.UNAVAILABLE,
}


class ClientCall(MessageStream):
    """One call. `recv` gives the answers and raises `RpcError` when the status is not OK."""

    def __init__(self, max_message: int) -> None:
        super().__init__(max_message)
        self.headers: Metadata | None = None
        """What the server sent before its first message; None until then."""
        self.trailers = Metadata()
        self._status: RpcError | None = None
        self._has_status = False
        self._headers_waiter: asyncio.Future[None] | None = None

    def end(self) -> None:
        """We send no more."""
        self.stream.end()

    def cancel(self, message: str = "context canceled") -> None:
        """Give the call up; may be called again and after the end."""
        if not self._ended:
            self.stream.reset(CANCEL)
            self.finish(RpcError(Code.CANCELLED, message))

    async def wait_headers(self) -> Metadata:
        """The server's first headers. Raises `RpcError` where the call ended before."""
        while self.headers is None:
            if self._ended:
                raise self._error or RpcError(Code.UNKNOWN, "the server sent no headers")
            self._headers_waiter = asyncio.get_running_loop().create_future()
            await self._headers_waiter
        return self.headers

    # from the connection ---------------------------------------------------------------------------

    def on_headers(self, headers: Headers) -> None:
        found = Metadata(headers)
        status = found.get("grpc-status")
        if status:
            self._has_status = True
            self.trailers = found
            if self.headers is None:
                self.headers = Metadata()
            if status != "0":
                code = natural(status)
                details = found.get("grpc-status-details-bin")
                try:
                    raw = decode_binary(details) if details else b""
                except RpcError:
                    raw = b""
                self._status = RpcError(
                    Code.UNKNOWN if code is None else code,
                    decode_message(found.get("grpc-message")),
                    details=raw,
                )
        elif self.headers is None:
            http = found.get(":status")
            if http.startswith("1"):
                return
            if http != "200":
                code = _HTTP_CODES.get(natural(http) or 0, Code.UNKNOWN)
                self.fail(RpcError(code, f"unexpected HTTP status code received from server: {http}"))
                return
            self.headers = found
            self.encoding = found.get("grpc-encoding")
        else:
            # Trailers without a status: whatever answered, it was not gRPC.
            self._status = RpcError(Code.UNKNOWN, "the server sent no status")
            self._has_status = True
        if self._headers_waiter is not None and not self._headers_waiter.done():
            self._headers_waiter.set_result(None)

    def on_end(self) -> None:
        if not self._has_status:
            self._status = RpcError(Code.UNAVAILABLE, "the call ended without a status")
        self.finish(self._status)
        if not self.stream.local_closed:
            self.stream.reset(NO_ERROR)

    def on_reset(self, code: int) -> None:
        if self._has_status and code == NO_ERROR:
            self.finish(self._status)
            return
        if code == CANCEL:
            error = RpcError(Code.CANCELLED, "the call was canceled by the peer")
        elif code in (REFUSED_STREAM, errors.INTERNAL_ERROR) or code == errors.ENHANCE_YOUR_CALM:
            error = RpcError(Code.UNAVAILABLE, f"the call was refused by the peer (code {code})")
        else:
            error = RpcError(Code.INTERNAL, f"the stream was reset by the peer (code {code})")
        self.finish(error)

    def fail(self, error: RpcError) -> None:
        if not self._ended:
            self.stream.reset(CANCEL)
            self.finish(error)

    def finish(self, error: RpcError | None) -> None:
        super().finish(error)
        if self._headers_waiter is not None and not self._headers_waiter.done():
            self._headers_waiter.set_result(None)


class Channel:
    """Calls to the peer of a connection in the client's role. Any number may run at once.

    Made by `socket.connect`, `tunnel`, or `pipe`; who made it closes it. `lost` is set when the connection is
    over.
    """

    def __init__(
        self,
        connection: Connection,
        *,
        authority: str = "localhost",
        scheme: str = "http",
        metadata: Iterable[tuple[str, str]] = (),
        max_message: int = MAX_MESSAGE,
    ) -> None:
        self._connection = connection
        self._max_message = max_message
        self._metadata = list(metadata)
        self._fixed = [
            (":method", "POST"),
            (":scheme", scheme),
            (":authority", authority),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            ("user-agent", "anyarch"),
        ]

    @property
    def closed(self) -> bool:
        return self._connection.closed

    def close(self) -> None:
        """End the connection; calls that still run fail."""
        self._connection.close()

    def start(
        self, path: str, *, metadata: Iterable[tuple[str, str]] = (), timeout: float | None = None
    ) -> ClientCall:
        """Begin a call. `metadata` is lower-case ASCII keys with their values; `timeout` in seconds is told
        to the peer (`call.cancel` is the caller's). Raises `RpcError` (UNAVAILABLE) where the connection is
        over."""
        connection = self._connection
        if connection.closed or connection.going_away:
            raise RpcError(Code.UNAVAILABLE, "the connection is closed")
        headers = [(":path", path), *self._fixed, *self._metadata, *metadata]
        if timeout is not None:
            headers.append(("grpc-timeout", f"{max(1, min(int(timeout * 1000), 99_999_999))}m"))
        call = ClientCall(self._max_message)
        call.stream = connection.open(headers, call)
        return call

    async def _room(self) -> None:
        """Wait while the peer takes no more calls at once."""
        while len(self._connection.streams) >= self._connection.peer_max_streams and not self.closed:  # noqa: ASYNC110
            await asyncio.sleep(0.005)

    async def unary(
        self,
        path: str,
        request: Message,
        reply: type[M],
        *,
        metadata: Iterable[tuple[str, str]] = (),
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> M:
        """One request, one answer. Raises `RpcError`; DEADLINE_EXCEEDED after `timeout` seconds."""
        await self._room()
        call = self.start(path, metadata=metadata, timeout=timeout)
        try:
            async with asyncio.timeout(timeout):
                await call.send(request)
                call.end()
                raw = await call.recv()
                if raw is None:
                    raise RpcError(Code.INTERNAL, f"{path} gave no answer")
                if await call.recv() is not None:
                    raise RpcError(Code.INTERNAL, f"{path} gave more than one answer")
        except TimeoutError:
            raise RpcError(Code.DEADLINE_EXCEEDED, "context deadline exceeded") from None
        finally:
            call.cancel()
        return await parse(reply, raw)
