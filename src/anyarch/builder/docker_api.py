"""The part of a docker engine's API that builders need, over any byte stream to it (Unix socket, TCP, TLS,
ssh). Podman's service answers the same calls.

One connection a call: the calls are few, and a call may take the connection over (`hijack`), which is how
programs in containers are talked to. Facts: docs.docker.com, "Engine API"; paths carry no version, so that
the engine answers in its own.
"""

from __future__ import annotations

import asyncio
import base64
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

import msgspec

from anyarch.builder.stream import connect_docker
from anyarch.errors import BuilderError, NodeLost

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from anyarch.builder.docker_config import DockerContext
    from anyarch.builder.stream import ByteStream

__all__ = ["DemuxStream", "DockerApi", "EngineError"]

_MOST_BYTES = 16 << 20
_READ_SIZE = 64 << 10


class EngineError(BuilderError):
    """The engine refused; `status` is that of HTTP."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class _Answer:
    """An answer of which the body is still to be read, or the connection when it was taken over."""

    def __init__(self, stream: ByteStream, label: str) -> None:
        self._stream = stream
        self._label = label
        self._buffer = b""
        self.status = 0
        self.headers: dict[str, str] = {}

    async def read_head(self) -> None:
        while b"\r\n\r\n" not in self._buffer:
            await self._more()
            if len(self._buffer) > _MOST_BYTES:
                raise NodeLost(f"{self._label}: it does not speak HTTP")
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        words = first.split(" ", 2)
        if len(words) < 2 or not words[0].startswith("HTTP/") or not words[1].isdigit():
            raise NodeLost(f"{self._label}: it does not speak HTTP")
        self.status = int(words[1])
        self.headers = {
            name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)
        }

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body, in pieces as they come."""
        if self.headers.get("transfer-encoding", "").lower() == "chunked":
            async for piece in self._chunked():
                yield piece
            return
        left = int(self.headers.get("content-length", -1))
        while left:
            if not self._buffer:
                try:
                    await self._more()
                except NodeLost:
                    if left < 0:
                        return
                    raise
            piece = self._buffer if left < 0 else self._buffer[:left]
            self._buffer = self._buffer[len(piece) :]
            left -= len(piece) if left > 0 else 0
            yield piece

    async def _chunked(self) -> AsyncIterator[bytes]:
        while True:
            line = await self._line()
            try:
                size = int(line.split(b";")[0], 16)
            except ValueError:
                raise NodeLost(f"{self._label}: a damaged answer") from None
            if size == 0:
                return
            while size:
                if not self._buffer:
                    await self._more()
                piece, self._buffer = self._buffer[:size], self._buffer[size:]
                size -= len(piece)
                yield piece
            await self._line()

    async def _line(self) -> bytes:
        while b"\r\n" not in self._buffer:
            await self._more()
        line, _, self._buffer = self._buffer.partition(b"\r\n")
        return line

    async def _more(self) -> None:
        data = await self._stream.read(_READ_SIZE)
        if not data:
            raise NodeLost(f"{self._label}: it closed the connection")
        self._buffer += data

    async def body(self) -> bytes:
        found = b""
        async for piece in self.chunks():
            found += piece
            if len(found) > _MOST_BYTES:
                raise NodeLost(f"{self._label}: an answer that is too long")
        return found

    def taken_over(self) -> _RestStream:
        """The connection, with what has been read already."""
        return _RestStream(self._stream, self._buffer)


class _RestStream:
    """A stream of which the beginning has been read already."""

    def __init__(self, stream: ByteStream, head: bytes) -> None:
        self._stream = stream
        self._head = head

    async def read(self, size: int) -> bytes:
        if self._head:
            data, self._head = self._head[:size], self._head[size:]
            return data
        return await self._stream.read(size)

    async def write(self, data: bytes) -> None:
        await self._stream.write(data)

    async def end_writing(self) -> None:
        await self._stream.end_writing()

    async def close(self) -> None:
        await self._stream.close()


class DemuxStream:
    """A program's input, and its output out of the engine's framing (8 bytes before each piece: which stream,
    and the length). Error output is kept (`said`)."""

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream
        self._buffer = b""
        self._left = 0
        self._is_output = True
        self.said = b""

    async def read(self, size: int) -> bytes:
        while True:
            while self._left == 0:
                if len(self._buffer) >= 8:
                    header, self._buffer = self._buffer[:8], self._buffer[8:]
                    self._is_output = header[0] != 2
                    self._left = int.from_bytes(header[4:], "big")
                elif not await self._more():
                    return b""
            if not self._buffer and not await self._more():
                return b""
            data = self._buffer[: min(size, self._left)]
            self._buffer = self._buffer[len(data) :]
            self._left -= len(data)
            if self._is_output:
                return data
            self.said = (self.said + data)[-4096:]

    async def _more(self) -> bool:
        data = await self._stream.read(_READ_SIZE)
        self._buffer += data
        return bool(data)

    async def write(self, data: bytes) -> None:
        await self._stream.write(data)

    async def end_writing(self) -> None:
        await self._stream.end_writing()

    async def close(self) -> None:
        await self._stream.close()


class DockerApi:
    """The engine of a docker context or address. Raises `NodeLost` where it does not answer, `EngineError`
    where it refuses."""

    def __init__(self, context: DockerContext, env: Mapping[str, str], *, timeout_s: float = 20.0) -> None:
        self._context = context
        self._env = env
        self._timeout_s = timeout_s
        self._label = f"the docker engine at {context.host}"

    # calls ----------------------------------------------------------------------------------------

    async def call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        json: Any = None,
        body: bytes = b"",
        kind: str = "application/x-tar",
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """The answer's JSON, None for an empty one."""
        stream, answer = await self._start(method, path, query, json, body, kind, headers or {})
        try:
            raw = await answer.body()
        finally:
            await stream.close()
        if answer.status >= 300:
            raise _refusal(self._label, answer.status, raw)
        if not raw.strip() or "json" not in answer.headers.get("content-type", "json"):
            return None
        try:
            return msgspec.json.decode(raw)
        except msgspec.DecodeError:
            raise NodeLost(f"{self._label}: an answer that is no JSON") from None

    async def messages(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> AsyncIterator[dict[str, Any]]:
        """The JSON messages of an answer that goes on for a while. One that tells an error is raised."""
        stream, answer = await self._start(method, path, query, None, b"", "", headers or {})
        try:
            if answer.status >= 300:
                raise _refusal(self._label, answer.status, await answer.body())
            rest = b""
            async for piece in answer.chunks():
                *lines, rest = (rest + piece).split(b"\n")
                for line in lines:
                    if line.strip():
                        yield _message(line, self._label)
            if rest.strip():
                yield _message(rest, self._label)
        finally:
            await stream.close()

    async def hijack(
        self,
        path: str,
        *,
        protocol: str = "tcp",
        json: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> ByteStream:
        """The connection, once the engine has handed it over."""
        wanted = {"Connection": "Upgrade", "Upgrade": protocol, **(headers or {})}
        stream, answer = await self._start("POST", path, None, json, b"", "", wanted)
        if answer.status not in (101, 200):
            try:
                raw = await answer.body()
            finally:
                await stream.close()
            raise _refusal(self._label, answer.status, raw)
        return answer.taken_over()

    async def _start(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        json: Any,
        body: bytes,
        kind: str,
        headers: Mapping[str, str],
    ) -> tuple[ByteStream, _Answer]:
        host = self._context.host
        stream = await connect_docker(host, self._context.tls, self._env, timeout_s=self._timeout_s)
        try:
            if json is not None:
                body, kind = msgspec.json.encode(json), "application/json"
            lines = {"Host": "docker", "Connection": "close", **headers}
            if body:
                lines["Content-Type"] = kind
            if body or method in ("POST", "PUT"):
                lines["Content-Length"] = str(len(body))
            target = path + (f"?{urlencode(query)}" if query else "")
            head = f"{method} {target} HTTP/1.1\r\n" + "".join(f"{k}: {v}\r\n" for k, v in lines.items())
            await stream.write(head.encode() + b"\r\n" + body)
            answer = _Answer(stream, self._label)
            await answer.read_head()
        except BaseException:
            await stream.close()
            raise
        return stream, answer

    # the engine -----------------------------------------------------------------------------------

    async def version(self) -> dict[str, Any]:
        found: dict[str, Any] = await self.call("GET", "/version")
        return found

    async def info(self) -> dict[str, Any]:
        found: dict[str, Any] = await self.call("GET", "/info")
        return found

    # images ---------------------------------------------------------------------------------------

    async def has_image(self, name: str) -> bool:
        try:
            await self.call("GET", f"/images/{quote(name, safe='/:@')}/json")
        except EngineError as error:
            if error.status == 404:
                return False
            raise
        return True

    async def pull(self, name: str, auth: Mapping[str, str] | None) -> None:
        query = {"fromImage": name}
        async for _ in self.messages("POST", "/images/create", query=query, headers=_auth(auth)):
            """Layers come down; what went wrong is raised."""

    async def push(
        self, repository: str, tag: str, auth: Mapping[str, str] | None, log: Callable[[str], None]
    ) -> str:
        """Push an image that the engine has; its digest."""
        digest = ""
        path = f"/images/{quote(repository, safe='/:')}/push"
        # The header has to be there, even when it says nothing.
        headers = {"X-Registry-Auth": _encoded(auth or {})}
        async for message in self.messages("POST", path, query={"tag": tag}, headers=headers):
            aux = message.get("aux")
            if isinstance(aux, dict) and aux.get("Digest"):
                digest = str(aux["Digest"])
                log(f"pushed {repository}:{tag}@{digest}")
        return digest

    # containers -----------------------------------------------------------------------------------

    async def inspect(self, container: str) -> dict[str, Any] | None:
        """What is known of a container, None when there is none."""
        try:
            found: dict[str, Any] = await self.call("GET", f"/containers/{quote(container)}/json")
        except EngineError as error:
            if error.status == 404:
                return None
            raise
        return found

    async def create(self, name: str, config: Mapping[str, Any]) -> bool:
        """Whether the container was made; False when there is one of that name."""
        try:
            await self.call("POST", "/containers/create", query={"name": name}, json=config)
        except EngineError as error:
            if error.status == 409:
                return False
            raise
        return True

    async def start(self, container: str) -> None:
        await self.call("POST", f"/containers/{quote(container)}/start")

    async def stop(self, container: str) -> None:
        await self.call("POST", f"/containers/{quote(container)}/stop")

    async def remove(self, container: str) -> None:
        query = {"force": "true", "v": "true"}
        await self.call("DELETE", f"/containers/{quote(container)}", query=query)

    async def remove_volume(self, name: str) -> None:
        await self.call("DELETE", f"/volumes/{quote(name)}")

    async def put_archive(self, container: str, directory: str, archive: bytes) -> None:
        path = f"/containers/{quote(container)}/archive"
        await self.call("PUT", path, query={"path": directory}, body=archive)

    async def logs(self, container: str) -> str:
        """The end of what a container has said."""
        path = f"/containers/{quote(container)}/logs"
        query = {"stdout": "true", "stderr": "true", "tail": "20"}
        stream, answer = await self._start("GET", path, query, None, b"", "", {})
        try:
            raw = await answer.body()
        finally:
            await stream.close()
        parts = []
        while len(raw) >= 8:
            size = int.from_bytes(raw[4:8], "big")
            parts.append(raw[8 : 8 + size])
            raw = raw[8 + size :]
        return b"".join(parts).decode("utf-8", "replace")

    async def open_exec(self, container: str, argv: list[str]) -> tuple[str, DemuxStream]:
        """Start a program in a container: its id, and its streams."""
        asked = {"Cmd": argv, "AttachStdin": True, "AttachStdout": True, "AttachStderr": True}
        made = await self.call("POST", f"/containers/{quote(container)}/exec", json=asked)
        number = str(made.get("Id") or "")
        if not number:
            raise BuilderError(f"{self._label}: it gave no id for a program in {container}")
        stream = await self.hijack(f"/exec/{number}/start", json={"Detach": False, "Tty": False})
        return number, DemuxStream(stream)

    async def run(self, container: str, argv: list[str]) -> tuple[int, str]:
        """Run a program in a container to its end: exit status, and what it said."""
        number, stream = await self.open_exec(container, argv)
        try:
            output = b""
            while data := await stream.read(_READ_SIZE):
                output = (output + data)[-_READ_SIZE:]
        finally:
            await stream.close()
        for _ in range(50):
            state = await self.call("GET", f"/exec/{number}/json")
            if not state.get("Running"):
                break
            await asyncio.sleep(0.02)
        text = (output + stream.said).decode("utf-8", "replace").strip()
        return int(state.get("ExitCode") or 0), text


def _auth(auth: Mapping[str, str] | None) -> dict[str, str]:
    return {"X-Registry-Auth": _encoded(auth)} if auth else {}


def _encoded(auth: Mapping[str, str]) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode(auth)).decode()


def _refusal(label: str, status: int, raw: bytes) -> EngineError:
    try:
        text = str(msgspec.json.decode(raw)["message"])
    except (msgspec.DecodeError, KeyError, TypeError):
        text = raw.decode("utf-8", "replace").strip() or f"status {status}"
    return EngineError(f"{label}: {text}", status)


def _message(line: bytes, label: str) -> dict[str, Any]:
    try:
        found = msgspec.json.decode(line)
    except msgspec.DecodeError:
        raise NodeLost(f"{label}: an answer that is no JSON") from None
    if not isinstance(found, dict):
        return {}
    if found.get("error"):
        raise EngineError(f"{label}: {found['error']}", 500)
    return found
