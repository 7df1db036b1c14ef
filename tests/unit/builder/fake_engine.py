"""A docker engine of a test's own making: the calls that the drivers make, on containers that are not there.
Programs in them are what the test says: `programs` maps a command line to (status, output)."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import tarfile
from contextlib import asynccontextmanager
from urllib.parse import parse_qs, unquote, urlsplit


class FakeEngine:
    def __init__(self):
        self.containers = {}
        self.volumes = set()
        self.images = set()
        self.registry = set()
        self.auths = []
        self.files = {}
        self.programs = {"buildctl debug workers": (0, "ID")}
        self.log = []
        self.info = {"CgroupDriver": "cgroupfs"}
        self.echo = b""
        self._execs = {}

    @asynccontextmanager
    async def serve(self, path):
        server = await asyncio.start_unix_server(self._accept, str(path))
        try:
            yield f"unix://{path}"
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
        query = {name: values[-1] for name, values in parse_qs(split.query).items()}
        self.log.append(f"{method} {unquote(split.path)}")
        if headers.get("upgrade"):
            await self._take_over(unquote(split.path), reader, writer)
        else:
            status, answer = self._answer(method, unquote(split.path), query, headers, body)
            if isinstance(answer, list):  # messages, in chunks
                writer.write(f"HTTP/1.1 {status} x\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
                for message in answer:
                    raw = json.dumps(message).encode() + b"\r\n"
                    writer.write(b"%x\r\n%b\r\n" % (len(raw), raw))
                writer.write(b"0\r\n\r\n")
            else:
                raw = b"" if answer is None else json.dumps(answer).encode()
                kind = "Content-Type: application/json\r\n" if raw else ""
                writer.write(
                    f"HTTP/1.1 {status} x\r\n{kind}Content-Length: {len(raw)}\r\n\r\n".encode() + raw
                )
        writer.close()
        await writer.wait_closed()

    async def _take_over(self, path, reader, writer):
        writer.write(b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\n\r\n")
        command = self._execs.get(path.split("/")[2], "")
        _, output = self.programs.get(command, (0, ""))
        for stream, text in ((1, output), (2, "a word on the side\n")):
            writer.write(bytes([stream, 0, 0, 0]) + len(text).to_bytes(4, "big") + text.encode())
        if command == "buildctl dial-stdio":
            while data := await reader.read(100):
                self.echo += data
                writer.write(b"\x01\0\0\0" + len(data).to_bytes(4, "big") + data)

    def _answer(self, method, path, query, headers, body):
        parts = path.strip("/").split("/")
        match method, parts:
            case "GET", ["version"]:
                return 200, {"Version": "1"}
            case "GET", ["info"]:
                return 200, self.info
            case "POST", ["images", "create"]:
                self.auths.append(headers.get("x-registry-auth"))
                if query["fromImage"] in self.registry:
                    self.images.add(query["fromImage"])
                    return 200, [{"status": "Pulling"}, {"status": "Done"}]
                return 200, [{"status": "Pulling"}, {"error": "not there"}]
            case "GET", ["images", *name, "json"]:
                return (200, {}) if "/".join(name) in self.images else (404, {"message": "No such image"})
            case "POST", ["containers", "create"]:
                if query["name"] in self.containers:
                    return 409, {"message": "Conflict"}
                config = json.loads(body)
                self.containers[query["name"]] = {"config": config, "running": False}
                self.volumes |= {mount["Source"] for mount in config["HostConfig"]["Mounts"]}
                return 201, {"Id": "x"}
            case "DELETE", ["volumes", name]:
                self.volumes.remove(name)
                return 204, None
            case "GET", ["exec", number, "json"]:
                status, _ = self.programs.get(self._execs[number], (0, ""))
                return 200, {"Running": False, "ExitCode": status}
            case _, ["containers", name, *rest] if name in self.containers:
                return self._container(method, name, rest, body)
        return 404, {"message": "No such container"}

    def _container(self, method, name, rest, body):
        container = self.containers[name]
        match method, rest:
            case "GET", ["json"]:
                mounts = [{"Name": mount["Source"]} for mount in container["config"]["HostConfig"]["Mounts"]]
                return 200, {"State": {"Running": container["running"]}, "Mounts": mounts}
            case "POST", ["start"]:
                container["running"] = True
            case "POST", ["stop"]:
                container["running"] = False
            case "PUT", ["archive"]:
                with tarfile.open(fileobj=io.BytesIO(body)) as tar:
                    self.files = {
                        item.name: tar.extractfile(item).read() for item in tar.getmembers() if item.isfile()
                    }
            case "POST", ["exec"]:
                number = f"e{len(self._execs)}"
                self._execs[number] = " ".join(json.loads(body)["Cmd"])
                return 201, {"Id": number}
            case "GET", ["logs"]:
                return 200, None
            case "DELETE", []:
                del self.containers[name]
        return 204, None


def decoded(auth):
    return json.loads(base64.urlsafe_b64decode(auth))
