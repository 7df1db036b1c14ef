"""Build sessions on the daemon's side: which are open, and calls of what their clients serve."""

from __future__ import annotations

import asyncio
import threading
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from anyarch.api.proto import health_pb2
from anyarch.api.rpc.client import Channel
from anyarch.api.rpc.status import Code, RpcError
from anyarch.api.rpc.tunnel import Tunnel
from anyarch.errors import BuildError, Canceled
from anyarch.spec.number import natural

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

    from anyarch.api.rpc.server import ServerCall

__all__ = ["Session", "Sessions", "WireCalls", "encode_values"]

T = TypeVar("T")

_WAIT_S = 5.0
"""How long a build waits for a session that has not come yet: calls of one client race."""
_HEALTH_INTERVAL_S = 5.0
_HEALTH_TIMEOUT_S = 15.0
_HEALTH = "/grpc.health.v1.Health/Check"


class Session:
    """One client that serves a build. Belongs to the wire's loop."""

    def __init__(self, call: ServerCall) -> None:
        metadata = call.metadata
        self.id = metadata.get("x-docker-expose-session-uuid")
        self.shared_key = metadata.get("x-docker-expose-session-sharedkey")
        self._methods = {text.lower() for text in metadata.all("x-docker-expose-session-grpc-method")}
        call.send_headers()
        self.tunnel = Tunnel(call, client=True)
        self.channel = Channel(self.tunnel.link.connection, max_message=16 << 20)
        self.over = asyncio.Event()
        self.tunnel.link.lost_callbacks.append(self.over.set)

    def serves(self, method: str) -> bool:
        """Whether the client said that it does."""
        return method.lower() in self._methods

    async def watch(self, patience: float | None = None) -> None:
        """Close the session when the client no longer answers: twice in a row, or, where it has told how many
        seconds that may take (`patience`), once."""
        failed = 0
        loop = asyncio.get_running_loop()
        interval = _HEALTH_INTERVAL_S if patience is None else patience
        shortest = timeout = _HEALTH_TIMEOUT_S if patience is None else patience
        while not self.over.is_set():
            await asyncio.sleep(interval)
            began = loop.time()
            try:
                await self.channel.unary(
                    _HEALTH, health_pb2.HealthCheckRequest(), health_pb2.HealthCheckResponse, timeout=timeout
                )
                failed = 0
                timeout = max(shortest, 1.5 * (loop.time() - began))
            except RpcError as error:
                if error.code == Code.UNIMPLEMENTED:
                    return
                failed += 1
                if failed == 2 or patience is not None:
                    self.channel.close()
                    return


class Sessions:
    """The open sessions by id."""

    def __init__(self) -> None:
        self._open: dict[str, Session] = {}
        self._arrived = asyncio.Condition()

    async def serve(self, call: ServerCall) -> None:
        """The handler of `Control.Session`: until the client ends it. Raises `RpcError`."""
        if not call.metadata.get("x-docker-expose-session-uuid"):
            raise RpcError(Code.INVALID_ARGUMENT, "the session has no id")
        session = Session(call)
        async with self._held(session), asyncio.TaskGroup() as group:
            watching = group.create_task(session.watch(_patience(call)))
            await session.over.wait()
            watching.cancel()

    @asynccontextmanager
    async def _held(self, session: Session) -> AsyncIterator[None]:
        if session.id in self._open:
            raise RpcError(Code.ALREADY_EXISTS, f"session {session.id} already exists")
        self._open[session.id] = session
        try:
            async with self._arrived:
                self._arrived.notify_all()
            yield
        finally:
            del self._open[session.id]
            session.channel.close()

    async def get(self, name: str, *, wait: float = _WAIT_S) -> Session:
        """The session of an id (a prefix up to a colon does not count). Raises `BuildError`."""
        identity = name.rpartition(":")[2]
        try:
            async with asyncio.timeout(wait), self._arrived:
                await self._arrived.wait_for(lambda: identity in self._open)
                return self._open[identity]
        except TimeoutError:
            raise BuildError(f"no active session for {identity}: context deadline exceeded") from None


def _patience(call: ServerCall) -> float | None:
    wanted_ms = natural(call.metadata.get("x-buildkit-session-health-custom-timeout"))
    return max(1.0, wanted_ms / 1000) if wanted_ms else None


class WireCalls:
    """Calls made on the wire's loop by the threads of one build. `close` fails those that run and all later
    ones."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._lock = threading.Lock()
        self._running: set[Any] = set()
        self._closed = False

    def __call__(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` there and wait. Raises what it raises; `Canceled` after `close`."""
        from concurrent.futures import CancelledError

        with self._lock:
            if self._closed:
                work.close()
                raise Canceled("context canceled")
            future = asyncio.run_coroutine_threadsafe(work, self._loop)
            self._running.add(future)
        try:
            return future.result()
        except CancelledError:
            raise Canceled("context canceled") from None
        finally:
            with self._lock:
                self._running.discard(future)

    def later(self, work: Callable[[], object]) -> None:
        """Do a small thing there, without waiting."""
        self._loop.call_soon_threadsafe(work)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            running = list(self._running)
        for future in running:
            future.cancel()


def encode_values(key: str, values: list[str] | tuple[str, ...]) -> list[tuple[str, str]]:
    """Metadata of several values: where one is not ASCII all of the key are escaped, and that is said."""
    from urllib.parse import quote_plus

    plain = all(value.isascii() and value.isprintable() for value in values)
    if plain:
        return [(key, value) for value in values]
    return [*((key, quote_plus(value)) for value in values), (f"{key}-encoded", "1")]
