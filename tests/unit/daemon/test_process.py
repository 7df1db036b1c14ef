"""Containers that a client makes of a result, and the processes it starts there."""

from __future__ import annotations

import asyncio
import json
import shutil
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from anyarch.api.proto import gateway_pb2, llb_pb2
from anyarch.api.rpc.status import Code, RpcError

from .harness import BRIDGE, Client, ask, daemon, run, solve, tree

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from anyarch.api.rpc.client import ClientCall

pytestmark = pytest.mark.root

Message = gateway_pb2.ExecMessage


class Shell:
    """A container with busybox, and calls into it."""

    def __init__(self, channel: Any, ref: str) -> None:
        self.channel = channel
        self.ref = ref
        self.ask = partial(ask, channel, "led")

    async def make(self, name: str, **fields: Any) -> None:
        mounts = [llb_pb2.Mount(dest="/", resultID=self.ref)]
        request = gateway_pb2.NewContainerRequest(ContainerID=name, Mounts=mounts, **fields)
        await self.ask("NewContainer", request, gateway_pb2.NewContainerResponse)

    def call(self) -> ClientCall:
        return self.channel.start(BRIDGE + "ExecProcess", metadata=[("buildkit-controlapi-buildid", "led")])


@asynccontextmanager
async def shell(path: Path) -> AsyncIterator[Shell]:
    busybox = shutil.which("busybox")
    assert busybox is not None
    context = tree(path / "c", Dockerfile="FROM scratch\nCOPY busybox /bin/busybox\n")
    shutil.copy(busybox, context / "busybox")
    client = Client(context=context, dockerfile=context)
    async with daemon(path) as channel, client.serving(channel):
        building = asyncio.ensure_future(solve(channel, client, "led"))
        shell = Shell(channel, "")
        request = gateway_pb2.SolveRequest(Frontend="dockerfile.v0", allowResultReturn=True)
        reply = await shell.ask("Solve", request, gateway_pb2.SolveResponse)
        shell.ref = reply.result.ref.id
        try:
            yield shell
        finally:
            building.cancel()
            await asyncio.gather(building, return_exceptions=True)


def init(
    container: str, script: str, fds: tuple[int, ...] = (0, 1, 2), **fields: Any
) -> gateway_pb2.InitMessage:
    meta = llb_pb2.Meta(args=["/bin/busybox", "sh", "-c", script], cwd="/", **fields)
    return gateway_pb2.InitMessage(ContainerID=container, Meta=meta, Fds=fds)


async def outcome(call: ClientCall) -> tuple[dict[int, bytes], int, Any]:
    """Output by stream, exit code and error of the only process of a call."""
    kinds, data, code, error = [], {1: b"", 2: b""}, -1, None
    async for message in call.messages(Message):
        kind = message.WhichOneof("Input")
        kinds.append(kind)
        if kind == "File":
            data[message.File.Fd] += message.File.Data
        elif kind == "Exit":
            code, error = message.Exit.Code, message.Exit.Error
        elif kind == "Done":
            call.end()
    assert kinds[0] == "Started"
    assert kinds[-1] == "Done"
    return data, code, error


def test_a_process_is_fed_heard_and_its_status_told(tmp_path: Path) -> None:
    async def work() -> None:
        async with shell(tmp_path) as box:
            await box.make("one")
            call = box.call()
            await call.send(
                Message(ProcessID="p", Init=init("one", "read x; echo got $x; echo no >&2; exit 7"))
            )
            await call.send(
                Message(ProcessID="p", File=gateway_pb2.FdMessage(Fd=0, Data=b"word\n", EOF=True))
            )
            data, code, error = await outcome(call)
            assert (data[1], data[2], code) == (b"got word\n", b"no\n", 7)
            assert error.message == "exit code: 7"
            assert json.loads(error.details[0].value) == {"Code": 7}

    run(work())


def test_processes_of_one_container_share_it_while_the_first_runs(tmp_path: Path) -> None:
    async def work() -> None:
        async with shell(tmp_path) as box:
            await box.make("one", hostname="boxed")
            first, second = box.call(), box.call()
            script = "echo $(/bin/busybox hostname) >/note; echo ready; read x"
            await first.send(Message(ProcessID="1", Init=init("one", script)))
            while True:
                message = await first.receive(Message)
                assert message is not None
                if message.File.Data:
                    break
            await second.send(Message(ProcessID="2", Init=init("one", "/bin/busybox cat /note")))
            data, code, _ = await outcome(second)
            assert (data[1], code) == (b"boxed\n", 0)
            await first.send(Message(ProcessID="1", Signal=gateway_pb2.SignalMessage(Name="KILL")))
            while message.WhichOneof("Input") != "Exit":
                message = await first.receive(Message)
                assert message is not None
            assert message.Exit.Code == 137
            first.cancel()
            reply = gateway_pb2.ReleaseContainerResponse
            with pytest.raises(RpcError, match="exit code: 137"):  # it tells how the first process failed
                await box.ask(
                    "ReleaseContainer", gateway_pb2.ReleaseContainerRequest(ContainerID="one"), reply
                )
            with pytest.raises(RpcError) as caught:
                await box.ask(
                    "ReleaseContainer", gateway_pb2.ReleaseContainerRequest(ContainerID="one"), reply
                )
            assert caught.value.code == Code.NOT_FOUND

    run(work())


def test_container_for_another_system_has_the_paths_usual_there(tmp_path: Path) -> None:
    async def work() -> None:
        async with shell(tmp_path) as box:
            for os, path in (
                ("windows", b"c:\\Windows\\System32;c:\\Windows;"),
                ("linux", b"/usr/local/sbin:"),
            ):
                await box.make(os, platform=llb_pb2.Platform(OS=os))
                call = box.call()
                await call.send(Message(ProcessID="p", Init=init(os, 'echo "$PATH"', (1,))))
                data, code, _ = await outcome(call)
                assert (data[1][: len(path)], code) == (path, 0)

    run(work())


def test_processes_that_join_are_told_to_have_started_before_any_of_them_speaks(tmp_path: Path) -> None:
    async def work() -> None:
        async with shell(tmp_path) as box:
            await box.make("one")
            call = box.call()
            await call.send(Message(ProcessID="1", Init=init("one", "read x", (0,))))
            assert (await call.receive(Message)).HasField("Started")
            for name in ("2", "3"):
                await call.send(Message(ProcessID=name, Init=init("one", "echo here")))
            # BuildKit's client waits for the reader of what "2" writes, which may be "3", to have started.
            said = [await call.receive(Message) for _ in range(2)]
            assert [(one.ProcessID, one.HasField("Started")) for one in said] == [("2", True), ("3", True)]
            call.cancel()

    run(work())


def test_many_processes_run_at_once_whether_they_read_or_not(tmp_path: Path) -> None:
    count = 12

    async def work() -> None:
        async with shell(tmp_path) as box:
            await box.make("one")
            call = box.call()
            for number in range(count):
                script = "sleep 100" if number == 0 else f"read x; echo $x {number}"
                await call.send(Message(ProcessID=f"p{number}", Init=init("one", script)))
            # More than a pipe holds, to one that does not read.
            flood = gateway_pb2.FdMessage(Fd=0, Data=bytes(1 << 20))
            started, heard, ended = 0, set(), set()
            async for message in call.messages(Message):
                match message.WhichOneof("Input"):
                    case "Started":
                        started += 1
                        if started == count:
                            for number in reversed(range(1, count)):
                                data = gateway_pb2.FdMessage(Fd=0, Data=b"word\n", EOF=True)
                                await call.send(Message(ProcessID=f"p{number}", File=data))
                            await call.send(Message(ProcessID="p0", File=flood))
                    case "File":
                        heard.add(bytes(message.File.Data))
                    case "Done":
                        ended.add(message.ProcessID)
                if len(ended) == count - 1:
                    break
            call.cancel()
            assert {b"word %d\n" % number for number in range(1, count)} <= heard

    run(work())


def test_a_terminal_has_the_size_that_it_is_given(tmp_path: Path) -> None:
    async def work() -> None:
        async with shell(tmp_path) as box:
            await box.make("one")
            call = box.call()
            started = init("one", "read x; /bin/busybox stty size")
            started.Tty = True
            await call.send(Message(ProcessID="p", Init=started))
            message = await call.receive(Message)
            assert message is not None
            await call.send(
                Message(ProcessID="p", Resize=gateway_pb2.ResizeMessage(Rows=2**32 - 1, Cols=2**31))
            )
            await call.send(Message(ProcessID="p", Resize=gateway_pb2.ResizeMessage(Rows=40, Cols=100)))
            await call.send(Message(ProcessID="p", File=gateway_pb2.FdMessage(Fd=0, Data=b"\n")))
            said = b""
            async for message in call.messages(Message):
                said += message.File.Data
                if message.WhichOneof("Input") == "Done":
                    call.end()
            assert b"40 100" in said

    run(work())


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (Message(Init=init("one", "true")), Code.INVALID_ARGUMENT),
        (Message(ProcessID="p", Init=init("none", "true")), Code.NOT_FOUND),
        (Message(ProcessID="p", Signal=gateway_pb2.SignalMessage(Name="KILL")), Code.NOT_FOUND),
        (Message(ProcessID="p", Resize=gateway_pb2.ResizeMessage(Rows=2**32 - 1)), Code.NOT_FOUND),
    ],
)
def test_messages_that_mean_nothing_are_errors(
    tmp_path: Path, message: gateway_pb2.ExecMessage, code: int
) -> None:
    async def work() -> None:
        async with shell(tmp_path) as box:
            call = box.call()
            await call.send(message)
            with pytest.raises(RpcError) as caught:
                await call.recv()
            assert caught.value.code == code

    run(work())


def test_a_program_that_is_not_there_is_told_as_such(tmp_path: Path) -> None:
    async def work() -> None:
        async with shell(tmp_path) as box:
            await box.make("one")
            call = box.call()
            started = init("one", "")
            started.Meta.args[:] = ["/no/such/program"]
            await call.send(Message(ProcessID="p", Init=started))
            _, code, error = await outcome(call)
            assert code == 0xFFFFFFFF
            assert "no such file" in error.message

    run(work())
