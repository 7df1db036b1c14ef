"""A Kubernetes API server of a test's own making: it keeps the objects that it is given, lets the pods of a
Deployment run, and serves exec by WebSocket."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from contextlib import asynccontextmanager
from urllib.parse import parse_qs, unquote, urlsplit

from anyarch.builder.websocket import decode_frame

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class FakeCluster:
    def __init__(self):
        self.objects = {}
        self.log = []
        self.pods = []
        self.comes_up = True
        self.tokens = set()
        self.commands = []
        self.said = b""
        self.failures = 0
        self.protocol = "v5.channel.k8s.io"
        self.socket = ""

    @asynccontextmanager
    async def serve(self):
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        try:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        finally:
            server.close()
            await server.wait_closed()

    async def _accept(self, reader, writer):
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        first, *lines = head.split("\r\n")
        method, target, _ = first.split(" ")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        split = urlsplit(target)
        self.tokens.add(headers.get("authorization"))
        self.log.append(f"{method} {unquote(split.path)}")
        try:
            if split.path.endswith("/exec"):
                await self._exec(parse_qs(split.query), headers, reader, writer)
            else:
                status, answer = self._answer(method, unquote(split.path), body)
                raw = json.dumps(answer).encode()
                writer.write(
                    f"HTTP/1.1 {status} x\r\nContent-Type: application/json\r\n"
                    f"Content-Length: {len(raw)}\r\n\r\n".encode()
                    + raw
                )
            writer.close()
            await writer.wait_closed()
        except ConnectionError:
            self.log.append("connection lost")

    def _answer(self, method, path, body):
        if path.endswith("/pods"):
            return 200, {"items": self.pods}
        kind = next(part for part in ("configmaps", "deployments", "statefulsets") if part in path)
        if method == "POST":
            item = json.loads(body)
            path = f"{path}/{item['metadata']['name']}"
            if path in self.objects:
                return 409, {"message": "already exists"}
            self.objects[path] = item
            if kind != "configmaps":
                self._run(item)
            return 201, item
        if path not in self.objects:
            return 404, {"message": "not found"}
        if method == "PUT":
            self.objects[path] = json.loads(body)
        if method == "DELETE":
            return 200, self.objects.pop(path)
        return 200, self.objects[path]

    def _run(self, item):
        template = item["spec"]["template"]
        for number in range(item["spec"]["replicas"]):
            metadata = {"name": f"{item['metadata']['name']}-{number}", **template["metadata"]}
            phase = {"phase": "Running"} if self.comes_up else {"phase": "Pending"}
            if not self.comes_up:
                phase["containerStatuses"] = [
                    {"state": {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}}
                ]
            self.pods.append({"metadata": metadata, "status": phase})
        item["status"] = {"readyReplicas": item["spec"]["replicas"] if self.comes_up else 0}

    async def _exec(self, query, headers, reader, writer):
        if self.failures:
            self.failures -= 1
            writer.write(b"HTTP/1.1 500 x\r\nContent-Length: 2\r\n\r\n{}")
            return
        key = headers["sec-websocket-key"].encode()
        accept = base64.b64encode(hashlib.sha1(key + _GUID).digest()).decode()
        assert self.protocol in headers["sec-websocket-protocol"]
        writer.write(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: {self.protocol}\r\n\r\n".encode()
        )
        self.commands.append((query["container"], query["command"]))
        if self.said:
            writer.write(_frame(2, b"\x02" + self.said))
            status = {"status": "Failure", "message": "command terminated with exit code 1"}
            writer.write(_frame(2, b"\x03" + json.dumps(status).encode()))
            return
        await self._talk(reader, writer)

    async def _talk(self, reader, writer):
        """Echo, or the daemon behind `socket`."""
        writer.write(_frame(9, b"ping"))
        down, up = await asyncio.open_unix_connection(self.socket) if self.socket else (None, None)

        async def pump():
            while data := await down.read(1 << 16):
                writer.write(_frame(2, b"\x01" + data))

        task = asyncio.create_task(pump()) if down is not None else None
        buffer = b""
        try:
            while data := await reader.read(1 << 16):
                buffer += data
                while frame := decode_frame(buffer):
                    kind, _, content, length = frame
                    buffer = buffer[length:]
                    if kind == 8:
                        return
                    if kind == 10:
                        assert content == b"ping"
                    elif content == b"\xff\x00":
                        writer.write(_frame(2, b"\x01<end>"))
                        writer.write(_frame(2, b'\x03{"status":"Success"}'))
                    elif up is not None:
                        up.write(content[1:])
                    else:
                        writer.write(_frame(2, b"\x01" + content[1:].upper()))
        finally:
            if task is not None:
                task.cancel()
                up.close()


def _frame(kind, data):
    """As a server sends it: not masked; long ones in two pieces."""
    if kind == 2 and len(data) > 10:
        return _piece(2, data[:10], is_last=False) + _piece(0, data[10:], is_last=True)
    return _piece(kind, data, is_last=True)


def _piece(kind, data, *, is_last):
    size = len(data)
    head = bytes([(0x80 if is_last else 0) | kind])
    if size < 126:
        return head + bytes([size]) + data
    if size < 1 << 16:
        return head + bytes([126]) + size.to_bytes(2, "big") + data
    return head + bytes([127]) + size.to_bytes(8, "big") + data
