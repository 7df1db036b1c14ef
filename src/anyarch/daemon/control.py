"""The service `moby.buildkit.v1.Control`: what clients ask of a daemon."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from anyarch.api.proto import control_pb2
from anyarch.api.rpc.server import unary
from anyarch.daemon.records import version_message, worker_record

if TYPE_CHECKING:
    from anyarch.api.rpc.server import Handler, ServerCall
    from anyarch.daemon.platforms import Platforms
    from anyarch.daemon.settings import Settings

__all__ = ["Control"]

_PREFIX = "/moby.buildkit.v1.Control/"


class Control:
    def __init__(self, settings: Settings, identity: str, platforms: Platforms) -> None:
        self._settings = settings
        self._identity = identity
        self._platforms = platforms

    def methods(self) -> dict[str, Handler]:
        return {
            _PREFIX + "Info": unary(control_pb2.InfoRequest, self.info),
            _PREFIX + "ListWorkers": unary(control_pb2.ListWorkersRequest, self.list_workers),
        }

    async def info(self, request: control_pb2.InfoRequest, call: ServerCall) -> control_pb2.InfoResponse:
        return control_pb2.InfoResponse(buildkitVersion=version_message())

    async def list_workers(
        self, request: control_pb2.ListWorkersRequest, call: ServerCall
    ) -> control_pb2.ListWorkersResponse:
        platforms = await asyncio.to_thread(self._platforms.list)
        record = worker_record(self._settings, self._identity, platforms)
        return control_pb2.ListWorkersResponse(record=[record])
