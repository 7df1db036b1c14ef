"""The part of a docker engine's API that builders need, over any byte stream to it (Unix socket, TCP, TLS,
ssh). Podman's service answers the same calls.

Facts: docs.docker.com, "Engine API"; paths carry no version, so that the engine answers in its own.
"""

from __future__ import annotations

import asyncio
import base64
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import msgspec

from anyarch.builder.peer import EngineError, Peer
from anyarch.builder.stream import connect_docker
from anyarch.errors import BuilderError, NodeLost

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from anyarch.builder.docker_config import DockerContext
    from anyarch.builder.stream import ByteStream

__all__ = ["DemuxStream", "DockerApi", "EngineError"]

_READ_SIZE = 64 << 10


class DemuxStream:
    """A program's input, and its output out of the engine's framing (8 bytes before each piece: which stream,
    and the length). Error output is kept (`said`)."""

    def __init__(self, stream: ByteStream) -> None:
        self.is_dialogue = False
        """Whether the program is there to be talked to: then one that ends without a word is an error."""
        self._stream = stream
        self._buffer = b""
        self._left = 0
        self._is_output = True
        self._has_answered = False
        self.said = b""

    async def read(self, size: int) -> bytes:
        while True:
            while self._left == 0:
                if len(self._buffer) >= 8:
                    header, self._buffer = self._buffer[:8], self._buffer[8:]
                    self._is_output = header[0] != 2
                    self._left = int.from_bytes(header[4:], "big")
                elif not await self._more():
                    return self._end()
            if not self._buffer and not await self._more():
                return self._end()
            data = self._buffer[: min(size, self._left)]
            self._buffer = self._buffer[len(data) :]
            self._left -= len(data)
            if self._is_output:
                self._has_answered = True
                return data
            self.said = (self.said + data)[-4096:]

    def _end(self) -> bytes:
        """Empty. Raises `NodeLost` for a program that only complained, if it is `is_dialogue`."""
        said = self.said.decode("utf-8", "replace").strip()
        if self.is_dialogue and said and not self._has_answered:
            raise NodeLost(said.splitlines()[-1])
        return b""

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


class DockerApi(Peer):
    """The engine of a docker context or address."""

    def __init__(self, context: DockerContext, env: Mapping[str, str], *, timeout_s: float = 20.0) -> None:
        async def connect() -> ByteStream:
            return await connect_docker(context.host, context.tls, env, timeout_s=timeout_s)

        super().__init__(connect, f"the docker engine at {context.host}")

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
        stream, answer = await self.start_call("GET", path, query, None, b"", "", {})
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
            raise BuilderError(f"{self.label}: it gave no id for a program in {container}")
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
