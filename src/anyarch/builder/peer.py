"""HTTP calls to an API over any byte stream: a docker engine's, a Kubernetes API server's.

One connection a call: the calls are few, and a call may take the connection over (`hijack`), which is how
programs in containers are talked to.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import msgspec

from anyarch.errors import BuilderError, NodeLost
from anyarch.spec.number import natural

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

    from anyarch.builder.stream import ByteStream

__all__ = ["Answer", "EngineError", "Peer", "RestStream"]

_MOST_BYTES = 16 << 20
_READ_SIZE = 64 << 10


class EngineError(BuilderError):
    """The API refused; `status` is that of HTTP."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Answer:
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
        if len(words) < 2 or not words[0].startswith("HTTP/") or natural(words[1]) is None:
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

    def taken_over(self) -> RestStream:
        """The connection, with what has been read already."""
        return RestStream(self._stream, self._buffer)


class RestStream:
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


class Peer:
    """An API behind `connect`; `label` names it in errors, `headers` go with every call. Raises `NodeLost`
    where it does not answer, `EngineError` where it refuses."""

    def __init__(
        self,
        connect: Callable[[], Awaitable[ByteStream]],
        label: str,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self._connect = connect
        self.label = label
        self._headers = {"Host": "docker", **(headers or {})}

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
        stream, answer = await self.start_call(method, path, query, json, body, kind, headers or {})
        try:
            raw = await answer.body()
        finally:
            await stream.close()
        if answer.status >= 300:
            raise _refusal(self.label, answer.status, raw)
        if not raw.strip() or "json" not in answer.headers.get("content-type", "json"):
            return None
        try:
            return msgspec.json.decode(raw)
        except msgspec.DecodeError:
            raise NodeLost(f"{self.label}: an answer that is no JSON") from None

    async def messages(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> AsyncIterator[dict[str, Any]]:
        """The JSON messages of an answer that goes on for a while. One that tells an error is raised."""
        stream, answer = await self.start_call(method, path, query, None, b"", "", headers or {})
        try:
            if answer.status >= 300:
                raise _refusal(self.label, answer.status, await answer.body())
            rest = b""
            async for piece in answer.chunks():
                *lines, rest = (rest + piece).split(b"\n")
                for line in lines:
                    if line.strip():
                        yield _message(line, self.label)
            if rest.strip():
                yield _message(rest, self.label)
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
        """The connection, once the peer has handed it over."""
        stream, _ = await self.take_over(path, protocol=protocol, json=json, headers=headers)
        return stream

    async def take_over(
        self,
        path: str,
        *,
        method: str = "POST",
        protocol: str,
        json: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[ByteStream, Answer]:
        """The connection, once the peer has handed it over, and the answer with which it did."""
        wanted = {"Connection": "Upgrade", "Upgrade": protocol, **(headers or {})}
        stream, answer = await self.start_call(method, path, None, json, b"", "", wanted)
        if answer.status not in (101, 200):
            try:
                raw = await answer.body()
            finally:
                await stream.close()
            raise _refusal(self.label, answer.status, raw)
        return answer.taken_over(), answer

    async def start_call(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        json: Any,
        body: bytes,
        kind: str,
        headers: Mapping[str, str],
    ) -> tuple[ByteStream, Answer]:
        """The connection, and an answer of which the head is read; the caller closes the connection."""
        stream = await self._connect()
        try:
            if json is not None:
                body, kind = msgspec.json.encode(json), "application/json"
            lines = {**self._headers, "Connection": "close", **headers}
            if body:
                lines["Content-Type"] = kind
            if body or method in ("POST", "PUT"):
                lines["Content-Length"] = str(len(body))
            target = path + (f"?{urlencode(query)}" if query else "")
            head = f"{method} {target} HTTP/1.1\r\n" + "".join(f"{k}: {v}\r\n" for k, v in lines.items())
            await stream.write(head.encode() + b"\r\n" + body)
            answer = Answer(stream, self.label)
            await answer.read_head()
        except BaseException:
            await stream.close()
            raise
        return stream, answer


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
