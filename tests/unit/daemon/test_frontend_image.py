"""A frontend in an image: run by the daemon, it asks over its standard input and output for what it needs and
returns what is built."""

from __future__ import annotations

import shutil
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import hpack
import pytest

from anyarch.api.proto import control_pb2, gateway_pb2, llb_pb2, rpcstatus_pb2
from anyarch.api.rpc.status import Code, RpcError
from anyarch.llb.ops import ActionMkfile
from anyarch.llb.state import State
from anyarch.testing.registry import FakeRegistry

from .harness import BRIDGE, Client, daemon, names_in, run, solve, statuses, tree

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from google.protobuf.message import Message

    from anyarch.api.rpc.client import Channel

pytestmark = pytest.mark.root

REF, OPTION = b"R" * 25, b"O" * 60
FRONTEND = r"""#!/bin/busybox sh
# Says what was recorded, but for two things that it does not know before it runs: the ref that it is
# answered, and an option.
/bin/busybox cat /solve
ref=$(/bin/busybox grep -o -m 1 -E '[0-9a-z]{25}')
option=$(/bin/busybox env | /bin/busybox sed -n 's/^BUILDKIT_FRONTEND_OPT_[0-9]*=build-arg:SAY=//p')
/bin/busybox cat /return.0
/bin/busybox printf '%s' "$ref"
/bin/busybox cat /return.1
/bin/busybox printf '%-60s' "$option"
/bin/busybox cat /return.2
"""


def frame(kind: int, flags: int, stream: int, body: bytes) -> bytes:
    return len(body).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + body


def call(encoder: hpack.Encoder, stream: int, method: str, message: Message) -> bytes:
    """The bytes of one call with one message."""
    headers = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", BRIDGE + method),
        (":authority", "localhost"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ]
    raw = message.SerializeToString()
    data = b"\0" + len(raw).to_bytes(4, "big") + raw
    return frame(1, 4, stream, encoder.encode(headers)) + frame(0, 1, stream, data)


def frontend_context(path: Path, returned: gateway_pb2.ReturnRequest) -> Path:
    """A context that makes the image of a frontend: it solves a file and returns `returned`."""
    encoder = hpack.Encoder()
    definition = State().file(ActionMkfile("/made", 0o644, b"by the frontend")).marshal()
    solving = gateway_pb2.SolveRequest(
        Definition=llb_pb2.Definition.FromString(definition.marshal()),
        allowResultReturn=True,
        allowResultArrayRef=True,
    )
    greeting = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, b"")
    first = greeting + call(encoder, 1, "Solve", solving)
    before, _, rest = call(encoder, 3, "Return", returned).partition(REF)
    middle, _, after = rest.partition(OPTION)
    dockerfile = 'FROM scratch\nCOPY . /\nENTRYPOINT ["/bin/busybox", "sh", "/frontend"]\n'
    context = tree(path, Dockerfile=dockerfile, frontend=FRONTEND)
    for name, data in (("solve", first), ("return.0", before), ("return.1", middle), ("return.2", after)):
        (context / name).write_bytes(data)
    busybox = shutil.which("busybox")
    assert busybox is not None
    (context / "bin").mkdir()
    shutil.copy(busybox, context / "bin/busybox")
    return context


async def push(channel: Channel, context: Path, name: str) -> None:
    client = Client(context=context, dockerfile=context)
    async with client.serving(channel):
        attrs = {"name": name, "push": "true"}
        exporters = [control_pb2.Exporter(Type="image", Attrs=attrs)]
        await solve(channel, client, name, Frontend="dockerfile.v0", Exporters=exporters)


@asynccontextmanager
async def offered(tmp_path: Path, context: Path) -> AsyncIterator[tuple[Channel, str]]:
    """A daemon, and the name under which a registry has the frontend that `context` makes."""
    with FakeRegistry() as registry:
        name = f"{registry.address}/frontend:1"
        async with daemon(tmp_path) as channel:
            await push(channel, context, name)
            yield channel, name


def test_the_image_of_a_syntax_line_makes_the_build(tmp_path: Path) -> None:
    result = gateway_pb2.Result(ref=gateway_pb2.Ref(id=REF.decode()), metadata={"frontend.said": OPTION})
    context = frontend_context(tmp_path / "f", gateway_pb2.ReturnRequest(result=result))

    async def work() -> None:
        async with offered(tmp_path, context) as (channel, name):
            user = tree(tmp_path / "c", Dockerfile=f"# syntax={name}\nWHATEVER this is\n")
            client = Client(context=user, dockerfile=user)
            async with client.serving(channel):
                response = await solve(
                    channel,
                    client,
                    Frontend="dockerfile.v0",
                    FrontendAttrs={"build-arg:SAY": "what was asked"},
                    Exporters=[control_pb2.Exporter(Type="tar")],
                )
                assert response.ExporterResponse["frontend.said"].rstrip() == "what was asked"
                assert names_in(client.archives["0"]) == ["made"]
                told = [vertex.name for m in await statuses(channel, "job") for vertex in m.vertexes]
                assert f"resolve image config for docker-image://{name}" in told

    run(work())


def test_an_error_that_a_frontend_in_an_image_returns_is_the_builds(tmp_path: Path) -> None:
    """The placeholders are in the message, which shows that it comes from what ran."""
    message = f"cannot build {REF.decode()}: {OPTION.decode()}"
    error = gateway_pb2.ReturnRequest(error=rpcstatus_pb2.Status(code=Code.INVALID_ARGUMENT, message=message))
    context = frontend_context(tmp_path / "f", error)

    async def work() -> None:
        client = Client()
        async with offered(tmp_path, context) as (channel, name), client.serving(channel):
            attrs = {"source": name, "build-arg:SAY": "because of this"}
            with pytest.raises(RpcError, match=r"cannot build [0-9a-z]{25}: because of this") as caught:
                await solve(channel, client, Frontend="gateway.v0", FrontendAttrs=attrs)
            assert caught.value.code == Code.INVALID_ARGUMENT

    run(work())


def test_a_frontend_that_ends_without_a_result_is_told_with_its_status(tmp_path: Path) -> None:
    busybox = shutil.which("busybox")
    assert busybox is not None
    dockerfile = 'FROM scratch\nCOPY busybox /\nENTRYPOINT ["/busybox", "sh", "-c", "exit 3"]\n'
    context = tree(tmp_path / "f", Dockerfile=dockerfile)
    shutil.copy(busybox, context / "busybox")

    async def work() -> None:
        client = Client()
        async with offered(tmp_path, context) as (channel, name), client.serving(channel):
            with pytest.raises(RpcError, match=rf"frontend {name} ended without a result: exit code: 3"):
                await solve(channel, client, Frontend="gateway.v0", FrontendAttrs={"source": name})

    run(work())
