"""A client's content stores (OCI layouts, local build caches, image outputs), used through its session."""

from __future__ import annotations

import asyncio
import tempfile
from typing import TYPE_CHECKING, BinaryIO, TypeVar, cast

from anyarch.api.proto import content_pb2
from anyarch.api.rpc.status import Code, RpcError
from anyarch.errors import BlobNotFound, CacheError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from anyarch.session.lender import Session, Sessions, WireCalls

__all__ = ["SessionBlobs", "SessionCaches", "write_blob"]

_T = TypeVar("_T")

_SERVICE = "/containerd.services.content.v1.Content/"
_READ = _SERVICE + "Read"
_WRITE = _SERVICE + "Write"
_INFO = _SERVICE + "Info"
_STORE = "buildkit-attachable-store-id"
_SPOOL = 4 << 20
_CHUNK = 1 << 20
_ELSEWHERE = (Code.NOT_FOUND, Code.UNIMPLEMENTED, Code.INVALID_ARGUMENT, Code.UNKNOWN)


class SessionBlobs:
    """Implements `source.layout.LayoutBlobs`."""

    def __init__(self, sessions: Sessions, calls: WireCalls, names: Sequence[str]) -> None:
        self._sessions = sessions
        self._calls = calls
        self._names = list(names)

    def open(self, session: str, store: str, digest: str) -> BinaryIO:
        return self._calls(self._first(_read_blob, session, store, digest))

    def check(self, session: str, store: str, digest: str) -> None:
        self._calls(self._first(_check_blob, session, store, digest))

    async def _first(
        self, ask: Callable[[Session, str, str], Awaitable[_T]], session: str, store: str, digest: str
    ) -> _T:
        """The answer of the first session that has the blob."""
        told = "no session"
        for name in [session] if session else self._names:
            try:
                return await ask(await self._sessions.get(name), f"oci:{store}", digest)
            except RpcError as error:
                if error.code not in _ELSEWHERE:
                    raise
                told = error.message
        raise BlobNotFound(f"{digest} of oci:{store}: {told}")


class SessionCaches:
    """Implements `cache.client.ClientCaches`: directories of the client that build caches are kept in."""

    def __init__(self, sessions: Sessions, calls: WireCalls, session: str) -> None:
        self._sessions = sessions
        self._calls = calls
        self._session = session

    def open(self, directory: str, digest: str) -> BinaryIO:
        async def read() -> BinaryIO:
            return await _read_blob(await self._get(), _store_id(directory), digest)

        try:
            return self._calls(read())
        except RpcError as error:
            kind = BlobNotFound if error.code == Code.NOT_FOUND else CacheError
            raise kind(f"the client's cache {directory} lacks {digest}: {error.message}") from None

    def has(self, directory: str, digest: str) -> bool:
        async def ask() -> bool:
            await _check_blob(await self._get(), _store_id(directory), digest)
            return True

        try:
            return self._calls(ask())
        except RpcError as error:
            if error.code == Code.NOT_FOUND:
                return False
            raise CacheError(f"the client's cache {directory}: {error.message}") from None

    def put(self, directory: str, digest: str, size: int, opened: Callable[[], BinaryIO]) -> None:
        async def write() -> None:
            await write_blob(await self._get(), _store_id(directory), digest, size, opened)

        try:
            self._calls(write())
        except RpcError as error:
            raise CacheError(f"error writing to the client's cache {directory}: {error.message}") from None

    async def _get(self) -> Session:
        if not self._session:
            raise CacheError("local cache exporter/importer requires session")
        return await self._sessions.get(self._session)


def _store_id(directory: str) -> str:
    """The name that a client gives the content store of a directory. It travels in a header as it is."""
    name = f"local:{directory}"
    if not (name.isascii() and name.isprintable()):
        raise CacheError(
            f'header key "{_STORE}" contains value with non-printable ASCII characters',
            hint="the path of a local build cache has to be ASCII",
        )
    return name


async def _check_blob(session: Session, store: str, digest: str) -> None:
    """Raises `RpcError` (NOT_FOUND) unless the store has the blob."""
    await session.channel.unary(
        _INFO,
        content_pb2.InfoRequest(digest=digest),
        content_pb2.InfoResponse,
        metadata=[(_STORE, store)],
    )


async def _read_blob(session: Session, store: str, digest: str) -> BinaryIO:
    """A blob in a file of our own. Raises `RpcError`."""
    file = cast("BinaryIO", tempfile.SpooledTemporaryFile(_SPOOL))  # noqa: SIM115
    call = session.channel.start(_READ, metadata=[(_STORE, store)])
    try:
        await call.send(content_pb2.ReadContentRequest(digest=digest))
        call.end()
        async for message in call.messages(content_pb2.ReadContentResponse):
            if message.offset != file.tell():  # a hole could be of any size
                raise RpcError(Code.OUT_OF_RANGE, f"{digest} does not come in order")
            file.write(message.data)
        file.seek(0)
        return file
    except BaseException:
        file.close()
        raise
    finally:
        call.cancel()


async def write_blob(
    session: Session, store: str, digest: str, size: int, opened: Callable[[], BinaryIO]
) -> None:
    """Have a content store hold a blob. Containerd's protocol: a stream of writes, the last of which commits;
    each is answered. Raises `RpcError`."""
    call = session.channel.start(_WRITE, metadata=[(_STORE, store)])
    plain = content_pb2.WriteContentRequest(ref=f"anyarch-{digest}", total=size, expected=digest)

    def message(action: content_pb2.WriteAction, offset: int = 0, data: bytes = b"") -> bytes:
        made = content_pb2.WriteContentRequest(action=action, offset=offset, data=data)
        made.MergeFrom(plain)
        return made.SerializeToString()

    try:
        await call.send(message(content_pb2.STAT))
        status = await call.receive(content_pb2.WriteContentResponse)
        position = status.offset if status is not None else 0
        with opened() as file:
            file.seek(position)
            while data := await asyncio.to_thread(file.read, _CHUNK):
                await call.send(message(content_pb2.WRITE, position, data))
                await call.receive(content_pb2.WriteContentResponse)
                position += len(data)
        await call.send(message(content_pb2.COMMIT, position))
        call.end()
        while await call.recv() is not None:
            pass
    except RpcError as error:
        if error.code != Code.ALREADY_EXISTS:
            raise
    finally:
        call.cancel()
