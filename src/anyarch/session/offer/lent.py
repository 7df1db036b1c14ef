"""Secrets and SSH agents that were lent to a build: Secrets and SSH of the session."""

from __future__ import annotations

import asyncio
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from anyarch.api.proto import secrets_pb2 as secrets
from anyarch.api.proto import ssh_pb2 as ssh
from anyarch.api.rpc.server import unary
from anyarch.api.rpc.status import Code, RpcError
from anyarch.api.rpc.tunnel import data_message, message_data

if TYPE_CHECKING:
    from contextlib import ExitStack

    from anyarch.api.rpc.server import Handler, ServerCall
    from anyarch.worker.session import Lent

__all__ = ["agent_methods", "secret_methods"]

_CHUNK = 64 << 10
_DEFAULT_ID = "default"


def secret_methods(lent: Lent) -> dict[str, Handler]:
    async def get_secret(request: secrets.GetSecretRequest, _call: ServerCall) -> secrets.GetSecretResponse:
        value = await asyncio.to_thread(lent.secret, request.ID)
        if value is None:
            raise RpcError(Code.NOT_FOUND, f"secret {request.ID} not found")
        return secrets.GetSecretResponse(data=value)

    return {"/moby.buildkit.secrets.v1.Secrets/GetSecret": unary(secrets.GetSecretRequest, get_secret)}


def agent_methods(lent: Lent, stack: ExitStack) -> dict[str, Handler]:
    """Agents for key files are started when they are asked for, and live as long as `stack`."""
    sockets: dict[str, asyncio.Future[str]] = {}

    def paths_of(name: str) -> tuple[str, ...]:
        paths = lent.ssh_paths(name)
        if paths is None:
            raise RpcError(Code.NOT_FOUND, f"unset ssh forward key {name}")
        return paths

    async def socket_of(name: str) -> str:
        if name not in sockets:
            sockets[name] = asyncio.get_running_loop().create_future()
            try:
                sockets[name].set_result(await asyncio.to_thread(_agent, paths_of(name), name, stack))
            except BaseException:
                sockets.pop(name).cancel()
                raise
        return await sockets[name]

    async def check(request: ssh.CheckAgentRequest, _call: ServerCall) -> ssh.CheckAgentResponse:
        paths_of(request.ID or _DEFAULT_ID)
        return ssh.CheckAgentResponse()

    async def forward(call: ServerCall) -> None:
        name = call.metadata.get("buildkit.ssh.id") or _DEFAULT_ID
        reader, writer = await asyncio.open_unix_connection(await socket_of(name))

        async def outwards() -> None:
            while (message := await call.recv()) is not None:
                writer.write(message_data(message))
                await writer.drain()
            writer.write_eof()

        try:
            async with asyncio.TaskGroup() as group:
                sending = group.create_task(outwards())
                while data := await reader.read(_CHUNK):
                    await call.send(data_message(data))
                sending.cancel()
        finally:
            writer.close()

    return {
        "/moby.sshforward.v1.SSH/CheckAgent": unary(ssh.CheckAgentRequest, check),
        "/moby.sshforward.v1.SSH/ForwardAgent": forward,
    }


def _agent(paths: tuple[str, ...], name: str, stack: ExitStack) -> str:
    if len(paths) == 1 and Path(paths[0]).is_socket():
        return paths[0]
    from anyarch.worker.ssh import agent_socket

    directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="anyarch-ssh-"))
    return stack.enter_context(
        agent_socket(paths, Path(directory), name="a", uid=os.getuid(), gid=os.getgid(), mode=0o600)
    )
