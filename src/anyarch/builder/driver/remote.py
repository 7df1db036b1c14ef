"""A BuildKit-API daemon that someone else runs: behind a Unix socket, TCP (with mutual TLS), ssh, or inside a
container or pod. It is used, never started, stopped or removed."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

from anyarch.builder.docker_config import TlsFiles
from anyarch.builder.driver import NodeState, option_bool, refuse_unknown
from anyarch.builder.stream import connect_node, split_endpoint, tls_context
from anyarch.builder.wire import open_client
from anyarch.errors import BuilderError, NodeLost, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from ssl import SSLContext

    from anyarch.builder.driver import DriverSetup, NodeClient
    from anyarch.builder.stream import ByteStream

__all__ = ["RemoteDriver", "open_driver"]

WAIT_S = 20.0
_CLOSED = "daemons that are not content with our certificate may close without a word: see cert and key"
_OPTIONS = ("cacert", "cert", "default-load", "key", "servername")


def open_driver(setup: DriverSetup) -> RemoteDriver:
    """Raises `UsageError` for options that make no sense."""
    if setup.node.files:
        raise UsageError("setting config file is not supported for remote driver")
    if setup.node.flags:
        raise UsageError("setting buildkit flags is not supported for remote driver")
    refuse_unknown(setup.options, _OPTIONS, "remote")
    return RemoteDriver(setup)


class RemoteDriver:
    def __init__(self, setup: DriverSetup) -> None:
        self._setup = setup
        self._endpoint = setup.node.endpoint
        self._tls, self._server_name = _tls_of(setup.options, self._endpoint)
        self.default_load = option_bool(setup.options, "default-load")

    async def state(self) -> NodeState:
        """A daemon that does not answer is inactive; what is wrong with the options or files is an error."""
        try:
            return await self._ask()
        except NodeLost:
            return NodeState(status="inactive")

    async def _ask(self) -> NodeState:
        client = await self.client()
        try:
            workers = await client.workers()
        except BaseException as error:
            await client.close()
            if isinstance(error, NodeLost) and self._tls is not None:
                error.hint = error.hint or _CLOSED
            raise
        return NodeState(status="running", client=client, workers=tuple(workers))

    async def start(self, log: Callable[[str], None]) -> None:
        """Wait for the daemon to answer."""
        log(f"waiting for {self._endpoint}")
        deadline = asyncio.get_running_loop().time() + WAIT_S
        while True:
            try:
                state = await self._ask()
                assert state.client is not None
                await state.client.close()
                return
            except NodeLost:
                if asyncio.get_running_loop().time() >= deadline:
                    raise
                await asyncio.sleep(0.5)

    async def stop(self) -> None:
        """It is not ours to stop."""

    async def remove(self, *, keep_state: bool, keep_daemon: bool) -> None:
        """It is not ours to remove."""

    async def client(self) -> NodeClient:
        label = f"node {self._setup.node.name} at {self._endpoint}"
        authority = self._server_name
        if not authority and not self._endpoint.startswith("unix://"):
            authority = split_endpoint(self._endpoint).netloc
        return await open_client(self.dial, label, authority=authority)

    async def dial(self) -> ByteStream:
        return await connect_node(
            self._endpoint,
            self._context(),
            self._setup.env,
            server_name=self._server_name,
            timeout_s=self._setup.connect_timeout_s,
        )

    def _context(self) -> SSLContext | None:
        # buildkitd's TLS wants HTTP/2 to be named.
        return tls_context(self._tls, alpn=["h2"]) if self._tls is not None else None


def _tls_of(options: dict[str, str], endpoint: str) -> tuple[TlsFiles | None, str]:
    names = ("cacert", "cert", "key", "servername")
    if not any(name in options for name in names):
        return None, ""
    for name in names[:3]:
        if name in options and not os.path.isabs(options[name]):
            raise UsageError(f"non-absolute path '{options[name]}' provided for {name}")
    missing = [name for name in ("cacert",) if not options.get(name)]
    if options.get("cert") and not options.get("key"):
        missing.append("key")
    if options.get("key") and not options.get("cert"):
        missing.append("cert")
    if missing:
        raise BuilderError(f"tls enabled, but missing keys {', '.join(missing)}")
    files = TlsFiles(options["cacert"], options.get("cert", ""), options.get("key", ""))
    return files, options.get("servername") or split_endpoint(endpoint).hostname or ""
