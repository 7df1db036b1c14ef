"""Byte streams to engines and daemons: Unix sockets, TCP, TLS, and the standard streams of a program (`ssh`,
`docker exec`, `kubectl exec`)."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Protocol

from anyarch.errors import BuilderError, NodeLost, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from ssl import SSLContext
    from urllib.parse import SplitResult

    from anyarch.builder.docker_config import TlsFiles

__all__ = [
    "BUILDKIT_SCHEMES",
    "ByteStream",
    "SocketStream",
    "connect_docker",
    "connect_node",
    "open_program",
    "parse_docker_host",
    "split_endpoint",
    "tls_context",
]

_CONNECT_TIMEOUT_S = 20.0
BUILDKIT_SCHEMES = (
    "docker-container",
    "kube-pod",
    "nerdctl-container",
    "npipe",
    "podman-container",
    "ssh",
    "tcp",
    "unix",
)


class ByteStream(Protocol):
    """A connection. `read` answers what is there, empty at the end; both directions end with `close`."""

    async def read(self, size: int) -> bytes: ...

    async def write(self, data: bytes) -> None: ...

    async def end_writing(self) -> None: ...

    async def close(self) -> None: ...


class SocketStream:
    """A `ByteStream` of asyncio's pair of streams. Raises `NodeLost` where the peer went away, `BuilderError`
    where it does not trust us."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, label: str) -> None:
        self.reader = reader
        self.writer = writer
        self.label = label

    async def read(self, size: int) -> bytes:
        try:
            return await self.reader.read(size)
        except OSError as error:
            raise _refusal(self.label, error) or _lost(self.label, error) from None

    async def write(self, data: bytes) -> None:
        try:
            self.writer.write(data)
            await self.writer.drain()
        except OSError as error:
            raise _lost(self.label, error) from None

    async def end_writing(self) -> None:
        if self.writer.can_write_eof():
            self.writer.write_eof()

    async def close(self) -> None:
        self.writer.close()
        try:
            await self.writer.wait_closed()
        except OSError:
            return  # it is closed whatever the peer made of it


class ProgramStream:
    """The standard streams of a program, which is ended with the stream. What it said on standard error is
    told when it ends without having answered."""

    def __init__(self, process: asyncio.subprocess.Process, label: str) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        self._process = process
        self._label = label
        self._stdin, self._stdout = process.stdin, process.stdout
        self._said = asyncio.create_task(_tail(process.stderr))
        self._has_answered = False

    async def read(self, size: int) -> bytes:
        data = await self._stdout.read(size)
        if data:
            self._has_answered = True
        elif not self._has_answered:
            status = await self._process.wait()
            said = (await self._said).decode("utf-8", "replace").strip()
            if status or said:
                text = said.splitlines()[-1] if said else f"exit status {status}"
                raise NodeLost(f"{self._label}: {text}")
        return data

    async def write(self, data: bytes) -> None:
        try:
            self._stdin.write(data)
            await self._stdin.drain()
        except OSError as error:
            raise _lost(self._label, error) from None

    async def end_writing(self) -> None:
        self._stdin.close()

    async def close(self) -> None:
        self._stdin.close()
        if self._process.returncode is None:
            try:
                await asyncio.wait_for(self._process.wait(), 1.0)
            except TimeoutError:
                self._process.terminate()
                await self._process.wait()
        await self._said


async def _tail(stream: asyncio.StreamReader) -> bytes:
    kept = b""
    while data := await stream.read(4096):
        kept = (kept + data)[-4096:]
    return kept


async def open_program(argv: Sequence[str], *, label: str, env: Mapping[str, str]) -> ProgramStream:
    """Raises `BuilderError` when the program cannot be started."""
    import subprocess

    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=dict(env),
            start_new_session=True,  # Ctrl-C is ours to act on
        )
    except OSError as error:
        raise BuilderError(
            f"{label}: {argv[0]}: {error.strerror}", hint=f"install {argv[0]}, or use another endpoint"
        ) from None
    return ProgramStream(process, label)


async def connect_socket(
    label: str,
    *,
    path: str = "",
    host: str = "",
    port: int = 0,
    tls: SSLContext | None = None,
    name: str = "",
    timeout_s: float = _CONNECT_TIMEOUT_S,
) -> SocketStream:
    """A Unix or TCP connection. Raises `NodeLost`."""
    try:
        async with asyncio.timeout(timeout_s):
            if path:
                reader, writer = await asyncio.open_unix_connection(path)
            elif tls is not None:
                reader, writer = await asyncio.open_connection(
                    host, port, ssl=tls, server_hostname=name or host
                )
            else:
                reader, writer = await asyncio.open_connection(host, port)
    except TimeoutError:
        raise NodeLost(f"{label}: no answer within {timeout_s:g} seconds") from None
    except OSError as error:
        raise _refusal(label, error) or _lost(label, error) from None
    if not path:
        _watch(writer)
    return SocketStream(reader, writer, label)


def _watch(writer: asyncio.StreamWriter) -> None:
    """A peer whose network or machine is gone sends nothing: let the kernel ask for it. About 25 seconds
    until the connection counts as lost."""
    import socket

    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3)):
        sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 25_000)  # milliseconds


def tls_context(tls: TlsFiles, *, alpn: Sequence[str] = ()) -> SSLContext:
    """A client's context. Raises `BuilderError` for files that cannot be used."""
    import ssl

    context = ssl.create_default_context(cafile=None)
    try:
        if tls.ca:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.load_verify_locations(tls.ca)
        if not tls.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if tls.cert or tls.key:
            context.load_cert_chain(tls.cert, tls.key or None)
    except (OSError, ssl.SSLError) as error:
        files = ", ".join(path for path in (tls.ca, tls.cert, tls.key) if path)
        raise BuilderError(f"could not load the TLS files {files}: {error.strerror or error}") from None
    if alpn:
        context.set_alpn_protocols(list(alpn))
    return context


def split_endpoint(endpoint: str) -> SplitResult:
    """Raises `UsageError` for what is no URL."""
    from urllib.parse import urlsplit

    try:
        split = urlsplit(endpoint)
        _ = split.port  # which is looked at only when it is asked for
    except ValueError as error:
        raise UsageError(f"failed to parse endpoint {endpoint}: {error}") from None
    return split


# engines ------------------------------------------------------------------------------------------


def parse_docker_host(text: str) -> str:
    """An engine's address as docker writes it. Raises `UsageError`."""
    scheme, sep, rest = text.strip().partition("://")
    if not sep:
        scheme, rest = "tcp", scheme
    if scheme == "tcp" and rest:
        split = split_endpoint(f"tcp://{rest}")
        host = split.hostname or ""
        port = split.port
        if host and ":" in host:
            host = f"[{host}]"
        if host and (port or not sep):
            if not sep and not port:
                raise UsageError(
                    f"failed to parse endpoint {text}: there is no docker context of that name, and as an "
                    "address it lacks the port",
                    hint="docker context ls lists contexts; addresses are tcp://HOST:PORT, ssh://HOST, "
                    "unix:///PATH",
                )
            return f"tcp://{host}:{port}{split.path}"
        return f"tcp://{host or 'localhost'}:{port or 2375}{split.path}"
    if scheme in ("unix", "npipe", "fd", "ssh") and rest:
        return f"{scheme}://{rest}"
    raise UsageError(f"failed to parse endpoint {text}: invalid bind address format: {text}")


async def connect_docker(
    host: str, tls: TlsFiles | None, env: Mapping[str, str], *, timeout_s: float = _CONNECT_TIMEOUT_S
) -> ByteStream:
    """A connection to a docker engine's API. Raises `NodeLost` and `BuilderError`."""
    split = split_endpoint(host)
    label = f"cannot connect to the docker engine at {host}"
    if split.scheme == "unix":
        return await connect_socket(label, path=host.removeprefix("unix://"))
    if split.scheme in ("tcp", "http", "https"):
        context = tls_context(tls) if tls is not None else None
        port = split.port or (2376 if context else 2375)
        host_name = split.hostname or "localhost"
        return await connect_socket(label, host=host_name, port=port, tls=context, timeout_s=timeout_s)
    if split.scheme == "ssh":
        return await open_program(
            [*_ssh(split.hostname, split.port, split.username, label), "docker", "system", "dial-stdio"],
            label=label,
            env=env,
        )
    raise BuilderError(f"{label}: {split.scheme}:// is not supported on this system")


def _ssh(host: str | None, port: int | None, user: str | None, label: str) -> list[str]:
    if not host or host.startswith("-") or (user or "").startswith("-"):
        raise BuilderError(f"{label}: ssh needs a host name")
    argv = ["ssh", "-o", "ConnectTimeout=30", "-T"]
    argv += ["-l", user] if user else []
    argv += ["-p", str(port)] if port else []
    return [*argv, "--", host]


# daemons ------------------------------------------------------------------------------------------


async def connect_node(
    endpoint: str,
    tls: SSLContext | None,
    env: Mapping[str, str],
    *,
    server_name: str = "",
    timeout_s: float = _CONNECT_TIMEOUT_S,
) -> ByteStream:
    """A connection to the API of a BuildKit daemon at an endpoint of the remote driver. Raises `NodeLost`
    and `BuilderError`."""
    label = f"cannot connect to {endpoint}"
    if endpoint.startswith("unix://"):
        return await connect_socket(label, path=endpoint.removeprefix("unix://"))
    split = split_endpoint(endpoint)
    if split.scheme == "tcp":
        port = split.port
        if not split.hostname or not port:
            raise BuilderError(f"{label}: a tcp endpoint needs host and port", hint="tcp://HOST:1234")
        return await connect_socket(
            label, host=split.hostname, port=port, tls=tls, name=server_name, timeout_s=timeout_s
        )
    if split.scheme == "npipe":
        raise BuilderError(f"{label}: named pipes exist on Windows only")
    if tls is not None:
        raise BuilderError(f"{label}: TLS is for tcp:// endpoints", hint="remove the driver options for TLS")
    return await open_program(program_of(endpoint), label=label, env=env)


def program_of(endpoint: str) -> list[str]:
    """The program whose standard streams lead to the daemon. Raises `BuilderError`."""
    from urllib.parse import parse_qs, unquote

    split = split_endpoint(endpoint)
    label = f"cannot connect to {endpoint}"
    query = parse_qs(split.query)
    path = unquote(split.path).strip("/")
    if split.scheme == "ssh":
        socket = ["--addr", f"unix://{unquote(split.path)}"] if path else []
        return [*_ssh(split.hostname, split.port, split.username, label), "buildctl", *socket, "dial-stdio"]
    name = unquote(split.netloc)
    if not name or name.startswith("-"):
        raise BuilderError(f"{label}: a name is missing")
    if split.scheme == "docker-container":
        context = [f"--context={query['context'][0]}"] if query.get("context") else []
        return ["docker", *context, "exec", "-i", name, "buildctl", "dial-stdio"]
    if split.scheme in ("podman-container", "nerdctl-container"):
        return [split.scheme.partition("-")[0], "exec", "-i", name, "buildctl", "dial-stdio"]
    if split.scheme == "kube-pod":
        options = [f"--{flag}={query[flag][0]}" for flag in ("context", "namespace") if query.get(flag)]
        container = [f"--container={query['container'][0]}"] if query.get("container") else []
        return ["kubectl", *options, "exec", "-i", *container, name, "--", "buildctl", "dial-stdio"]
    raise BuilderError(f"unrecognized url scheme {split.scheme}")


def _refusal(label: str, error: OSError) -> BuilderError | None:
    """For a peer that we do not trust, or that does not trust us: asking again changes nothing."""
    import ssl

    if isinstance(error, ssl.SSLCertVerificationError):
        return BuilderError(
            f"{label}: {error.verify_message}",
            hint="cacert has to be the authority of the daemon's certificate, servername a name in that",
        )
    if isinstance(error, ssl.SSLError) and "_ALERT_" in (error.reason or ""):
        return BuilderError(
            f"{label}: the daemon refuses our certificate: {error.reason.replace('_', ' ').lower()}",
            hint="cert and key have to be signed by an authority that the daemon trusts",
        )
    return None


def _lost(label: str, error: OSError) -> NodeLost:
    text = os.strerror(error.errno) if error.errno and not getattr(error, "reason", "") else str(error)
    return NodeLost(f"{label}: {text}")
