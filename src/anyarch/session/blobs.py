"""Blobs of a client's content stores (OCI layouts, local build caches), read through its session."""

from __future__ import annotations

import tempfile
from typing import TYPE_CHECKING, BinaryIO, cast

from anyarch.api.proto import content_pb2
from anyarch.api.rpc.status import Code, RpcError
from anyarch.errors import BlobNotFound

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anyarch.session.lender import Sessions, WireCalls

__all__ = ["SessionBlobs"]

_READ = "/containerd.services.content.v1.Content/Read"
_STORE = "buildkit-attachable-store-id"
_SPOOL = 4 << 20
_ELSEWHERE = (Code.NOT_FOUND, Code.UNIMPLEMENTED, Code.INVALID_ARGUMENT, Code.UNKNOWN)


class SessionBlobs:
    """Implements `source.layout.LayoutBlobs`."""

    def __init__(self, sessions: Sessions, calls: WireCalls, names: Sequence[str]) -> None:
        self._sessions = sessions
        self._calls = calls
        self._names = list(names)

    def open(self, session: str, store: str, digest: str) -> BinaryIO:
        names = [session] if session else self._names
        return self._calls(self._read(names, f"oci:{store}", digest))

    async def _read(self, names: Sequence[str], store: str, digest: str) -> BinaryIO:
        told = "no session"
        for name in names:
            session = await self._sessions.get(name)
            file = cast("BinaryIO", tempfile.SpooledTemporaryFile(_SPOOL))  # noqa: SIM115
            call = session.channel.start(_READ, metadata=[(_STORE, store)])
            try:
                await call.send(content_pb2.ReadContentRequest(digest=digest))
                call.end()
                async for message in call.messages(content_pb2.ReadContentResponse):
                    file.seek(message.offset)
                    file.write(message.data)
                file.seek(0)
                return file
            except RpcError as error:
                file.close()
                if error.code not in _ELSEWHERE:
                    raise
                told = error.message
            except BaseException:
                file.close()
                raise
            finally:
                call.cancel()
        raise BlobNotFound(f"{digest} of {store}: {told}")
