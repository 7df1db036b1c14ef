"""The service `moby.exporter.v1.Exporter` of a client: it says what is to be made of a result once it has
seen it, and is told what became of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anyarch.api.proto import exporter_pb2
from anyarch.api.rpc.status import Code, RpcError
from anyarch.daemon.requestlimits import check_exporters

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anyarch.session.lender import Sessions

__all__ = ["SessionExporter"]

_PREFIX = "/moby.exporter.v1.Exporter/"
_NOT_OFFERED = (Code.UNAVAILABLE, Code.UNIMPLEMENTED)


class SessionExporter:
    def __init__(self, sessions: Sessions, session: str) -> None:
        self._sessions = sessions
        self._session = session

    async def find(
        self, metadata: Mapping[str, bytes], refs: Sequence[str]
    ) -> list[tuple[str, dict[str, str]]]:
        """Types and attributes of the outputs; none from a client that has no such service. Raises what the
        client answers."""
        session = await self._sessions.get(self._session)
        try:
            found = await session.channel.unary(
                _PREFIX + "FindExporters",
                exporter_pb2.FindExportersRequest(metadata=metadata, refs=refs),
                exporter_pb2.FindExportersResponse,
            )
        except RpcError as error:
            if error.code in _NOT_OFFERED:
                return []
            raise
        check_exporters(found.exporters)
        return [(item.Type, dict(item.Attrs)) for item in found.exporters]

    async def finalize(self, response: Mapping[str, str]) -> None:
        """Raises what the client answers."""
        session = await self._sessions.get(self._session)
        try:
            await session.channel.unary(
                _PREFIX + "FinalizeExport",
                exporter_pb2.FinalizeExportRequest(exporter_response=response),
                exporter_pb2.FinalizeExportResponse,
            )
        except RpcError as error:
            if error.code not in _NOT_OFFERED:
                raise
