"""What a client lends a build through its session: secrets, agents, logins, an uploaded context.

All of it is asked for on the build's threads (`WireCalls` carries the call to the wire's loop), when a step
needs it. A build may know several sessions; each is asked in turn until one answers.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import tempfile
import threading
from collections.abc import MutableMapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from anyarch.api.proto import auth_pb2, secrets_pb2, ssh_pb2
from anyarch.api.rpc.status import Code, RpcError
from anyarch.api.rpc.tunnel import data_message, message_data
from anyarch.errors import BuildError
from anyarch.registry.credentials import HUB_NAMES, Credential
from anyarch.worker.session import Lent

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from anyarch.session.lender import Session, Sessions, WireCalls

__all__ = ["Logins", "SessionLent", "Uploads"]

_SECRET = "/moby.buildkit.secrets.v1.Secrets/GetSecret"
_CHECK_AGENT = "/moby.sshforward.v1.SSH/CheckAgent"
_FORWARD = "/moby.sshforward.v1.SSH/ForwardAgent"
_AUTH = "/moby.filesync.v1.Auth/"
_PULL = "/moby.upload.v1.Upload/Pull"
_MISSING = (Code.NOT_FOUND, Code.UNIMPLEMENTED)
_SALT = secrets.token_bytes(32)
_HUB_HOST = "registry-1.docker.io"
_AGENT_CHUNK = 32 << 10
_MOST_ANSWERS = 4 << 20
"""Bytes from an agent that a step has not read."""


class SessionLent(Lent):
    """Secrets and agents of the sessions named. `allowed` are the entitlements that the daemon grants."""

    def __init__(
        self,
        sessions: Sessions,
        calls: WireCalls,
        names: Sequence[str],
        *,
        entitlements: Sequence[str] = (),
        allowed: Sequence[str] = (),
        directory: str = "",
    ) -> None:
        for text in entitlements:
            # Which devices there are is settled by the machine's CDI files; clients ask for each.
            if text.partition("=")[0] not in (*allowed, "device"):
                raise BuildError(
                    f"granting entitlement {text} is not allowed by build daemon configuration",
                    hint="start the daemon with --allow-insecure-entitlement, or set insecure-entitlements",
                )
        super().__init__(entitlements=entitlements, env={})
        self._sessions = sessions
        self._calls = calls
        self._names = list(names)
        self._directory = directory
        self._sockets: dict[str, str] = {}
        self._offered: set[str] = set()  # names that were asked of a client that forwards agents at all
        self._servers: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._lock = threading.Lock()

    def check(self) -> None:
        """Nothing is asked of the client before a step needs it."""

    def secret(self, name: str) -> bytes | None:
        return self._calls(self._secret(name))

    async def _secret(self, name: str) -> bytes | None:
        for identity in self._names:
            session = await self._sessions.get(identity)
            try:
                reply = await session.channel.unary(
                    _SECRET, secrets_pb2.GetSecretRequest(ID=name), secrets_pb2.GetSecretResponse
                )
            except RpcError as error:
                if error.code in _MISSING:
                    continue
                raise
            return bytes(reply.data)
        return None

    # agents ----------------------------------------------------------------------------------------

    def ssh_refusal(self, name: str) -> str:
        if name in self._offered:
            return super().ssh_refusal(name)
        return f'no SSH key "{name}" forwarded from the client'

    def ssh_paths(self, name: str) -> tuple[str, ...] | None:
        """A socket of ours whose connections are carried to the client's agent."""
        with self._lock:
            path = self._sockets.get(name)
            if path is None:
                path = self._calls(self._agent(name))
                if path is None:
                    return None
                self._sockets[name] = path
        return (path,)

    async def _agent(self, name: str) -> str | None:
        for identity in self._names:
            session = await self._sessions.get(identity)
            try:
                await session.channel.unary(
                    _CHECK_AGENT, ssh_pb2.CheckAgentRequest(ID=name), ssh_pb2.CheckAgentResponse
                )
            except RpcError as error:
                if error.code != Code.UNIMPLEMENTED:
                    self._offered.add(name)
                if error.code in _MISSING or "unset ssh forward key" in error.message:
                    continue
                raise
            # In /tmp: the path of the store may be too long for a socket.
            directory = tempfile.mkdtemp(prefix="anyarch-agent-")
            path = os.path.join(directory, "s")
            server = await asyncio.start_unix_server(
                lambda reader, writer, session=session: self._forward(session, name, reader, writer),  # type: ignore[misc]
                path,
            )
            os.chmod(path, 0o600)
            self._servers.append(server)
            return path
        return None

    async def _forward(
        self, session: Session, name: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        call = session.channel.start(_FORWARD, metadata=[("buildkit.ssh.id", name)])

        def answer(message: bytes | memoryview) -> None:
            writer.write(bytes(message_data(message)))
            if writer.transport.get_write_buffer_size() > _MOST_ANSWERS:
                call.cancel()  # agents answer what they are asked
                writer.transport.abort()

        call.on_message(answer)
        call.on_end_callback = lambda error: writer.close()
        try:
            while data := await reader.read(_AGENT_CHUNK):
                await call.send(data_message(data))
            call.end()
        except (RpcError, ConnectionError):
            pass  # the step sees its connection close
        finally:
            call.cancel()
            writer.close()

    async def close(self) -> None:
        """End the sockets; on the wire's loop."""
        for server in self._servers:
            server.close()
        for path in self._sockets.values():
            with suppress(OSError):
                os.unlink(path)
            with suppress(OSError):
                os.rmdir(os.path.dirname(path))


class Logins:
    """A `CredentialSource` that asks the client. A client that can fetches tokens itself, so that its secrets
    stay with it."""

    def __init__(self, sessions: Sessions, calls: WireCalls, names: Sequence[str]) -> None:
        self._sessions = sessions
        self._calls = calls
        self._names = list(names)
        self._lock = threading.Lock()
        self._known: dict[str, Credential | None] = {}
        self._fetches: dict[str, bool] = {}
        self.complaints: list[str] = []

    def get(self, domain: str, repository: str = "") -> Credential | None:
        with self._lock:
            if domain not in self._known:
                self._known[domain] = self._calls(self._credential(_host(domain)))
            return self._known[domain]

    def token(self, domain: str, realm: str, service: str, scopes: Sequence[str]) -> tuple[str, float] | None:
        return self._calls(self._token(_host(domain), realm, service, list(scopes)))

    async def _ask(self, method: str, request: Any, reply: type[Any]) -> Any:
        """The first answer of a session that has one; None where none serves it."""
        for identity in self._names:
            session = await self._sessions.get(identity)
            try:
                return await session.channel.unary(_AUTH + method, request, reply)
            except RpcError as error:
                if error.code in (*_MISSING, Code.UNAVAILABLE):
                    continue
                raise
        return None

    async def _credential(self, host: str) -> Credential | None:
        found = await self._ask(
            "Credentials", auth_pb2.CredentialsRequest(Host=host), auth_pb2.CredentialsResponse
        )
        if found is None or not found.Secret:
            return None
        if not found.Username:
            return Credential(identity_token=found.Secret)
        return Credential(found.Username, found.Secret)

    async def _token(
        self, host: str, realm: str, service: str, scopes: list[str]
    ) -> tuple[str, float] | None:
        request = auth_pb2.GetTokenAuthorityRequest(Host=host, Salt=_SALT)
        authority = await self._ask("GetTokenAuthority", request, auth_pb2.GetTokenAuthorityResponse)
        if authority is None or not authority.PublicKey:
            return None  # it has no login for this host, or gives credentials only
        fetched = await self._ask(
            "FetchToken",
            auth_pb2.FetchTokenRequest(
                ClientID="buildkit-client", Host=host, Realm=realm, Service=service, Scopes=scopes
            ),
            auth_pb2.FetchTokenResponse,
        )
        if fetched is None or not fetched.Token:
            return None
        return fetched.Token, float(fetched.ExpiresIn or 60)


def _host(domain: str) -> str:
    return _HUB_HOST if domain in HUB_NAMES else domain


class Uploads(MutableMapping[str, BinaryIO]):
    """Contexts that the client uploads (`http://buildkit-session/ID`); each can be taken once."""

    def __init__(self, sessions: Sessions, calls: WireCalls, names: Sequence[str], root: Path) -> None:
        """What comes lies in a file below `root` until it was read: /tmp may be memory."""
        self._sessions = sessions
        self._calls = calls
        self._names = list(names)
        self._root = root

    def __getitem__(self, key: str) -> BinaryIO:
        return self._calls(self._pull(key))

    async def _pull(self, key: str) -> BinaryIO:
        for identity in self._names:
            session = await self._sessions.get(identity)
            if not session.serves(_PULL):
                continue
            self._root.mkdir(parents=True, exist_ok=True)
            file = cast("BinaryIO", tempfile.TemporaryFile(dir=self._root))  # noqa: SIM115
            call = session.channel.start(_PULL, metadata=[("urlpath", f"/{key}")])
            try:
                while (message := await call.recv()) is not None:
                    file.write(message_data(message))
            except BaseException:
                file.close()
                raise
            finally:
                call.cancel()
            file.seek(0)
            return file
        raise KeyError(key)

    def __delitem__(self, key: str) -> None:
        """It is read whole when it is taken."""

    def __setitem__(self, key: str, value: BinaryIO) -> None:
        raise TypeError("a client's uploads cannot be replaced")

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0
