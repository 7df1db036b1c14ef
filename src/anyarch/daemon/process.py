"""Processes in containers that a client drives (`LLBBridge.ExecProcess`): many in one call, told apart by
their ids."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from contextlib import suppress
from typing import TYPE_CHECKING, cast

from anyarch.api.proto import gateway_pb2, llb_pb2, rpcstatus_pb2, wellknown_pb2
from anyarch.api.rpc.status import Code, RpcError
from anyarch.daemon.failure import status_of, translate
from anyarch.llb.wire import unmarshal_op

if TYPE_CHECKING:
    from anyarch.api.rpc.server import ServerCall
    from anyarch.daemon.job import Job
    from anyarch.engine.container import Container
    from anyarch.engine.workbench import Workbench
    from anyarch.llb.ops import ExecOp
    from anyarch.sandbox.executor import StepHandle

__all__ = ["exec_op", "exec_processes"]

_CHUNK = 32 << 10
_UNKNOWN = 0xFFFFFFFF
_EXIT = "github.com/moby/buildkit/gatewayapi.ExitMessage+json"
_FDS = (0, 1, 2)
_MOST = 0xFFFF  # rows or columns that the kernel can be told

Message = gateway_pb2.ExecMessage


def exec_op(**fields: object) -> ExecOp:
    """An op of the fields of `pb.ExecOp`, checked as one of a definition is. Raises `UsageError`."""
    message = llb_pb2.Op(exec=llb_pb2.ExecOp(**fields))  # type: ignore[arg-type]
    return cast("ExecOp", unmarshal_op(message.SerializeToString()).kind)


async def exec_processes(call: ServerCall, job: Job) -> None:
    """Serve one call until the client ends it and all its processes have ended. Raises `RpcError`."""
    processes: dict[str, _Process] = {}
    async with asyncio.TaskGroup() as group:
        try:
            async for message in call.messages(Message):
                name = message.ProcessID
                if not name:
                    raise RpcError(Code.INVALID_ARGUMENT, "ProcessID required")
                process = processes.get(name)
                if message.WhichOneof("Input") == "Init":
                    if process is not None:
                        raise RpcError(Code.ALREADY_EXISTS, f"Process {name} already exists")
                    container = job.containers.get(message.Init.ContainerID)
                    if container is None:
                        raise RpcError(
                            Code.NOT_FOUND,
                            f'container "{message.Init.ContainerID}" previously released or not created',
                        )
                    process = processes[name] = _Process(call, job, container, name, message.Init)
                    group.create_task(process.run())
                    await process.is_set_up.wait()
                    continue
                if process is None:
                    raise RpcError(Code.NOT_FOUND, f'IO for process "{name}" not found')
                await process.take(message)
        except BaseException:
            for process in processes.values():
                process.kill()
            raise


class _Process:
    def __init__(
        self, call: ServerCall, job: Job, container: Container, name: str, init: gateway_pb2.InitMessage
    ) -> None:
        from anyarch.sandbox.executor import StepHandle

        self._call = call
        self._job = job
        self._container = container
        self._name = name
        self._init = init
        self._handle: StepHandle = StepHandle()
        self._stdin = -1
        self._writable: asyncio.Future[None] | None = None
        self._task: asyncio.Task[int] | None = None
        self._runs = asyncio.Event()
        """It has been set up, or failed to be."""
        self.is_set_up = asyncio.Event()
        """The next process may begin."""

    # from the client -------------------------------------------------------------------------------

    async def take(self, message: gateway_pb2.ExecMessage) -> None:
        match message.WhichOneof("Input"):
            case "File":
                if message.File.Fd != 0:
                    raise RpcError(Code.INVALID_ARGUMENT, f"fd {message.File.Fd} is not written to")
                if message.File.Data and self._stdin >= 0:
                    await self._write(message.File.Data)
                if message.File.EOF:
                    self._close_stdin()
            case "Resize":
                await self._runs.wait()
                self._handle.resize(min(message.Resize.Rows, _MOST), min(message.Resize.Cols, _MOST))
            case "Signal":
                number = getattr(signal, f"SIG{message.Signal.Name}", None)
                if not isinstance(number, int):
                    raise RpcError(Code.INVALID_ARGUMENT, f"Unknown signal {message.Signal.Name}")
                await self._runs.wait()
                self._handle.signal(number)

    async def _write(self, data: bytes) -> None:
        """On the loop: a thread for each process that does not read would be one too many."""
        view = memoryview(data)
        with suppress(BrokenPipeError):  # the process has read enough, or has ended
            while len(view) and self._stdin >= 0:
                try:
                    view = view[os.write(self._stdin, view) :]
                except BlockingIOError:
                    loop = asyncio.get_running_loop()
                    self._writable = loop.create_future()
                    loop.add_writer(self._stdin, self._wake)
                    await self._writable

    def _wake(self) -> None:
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)
        if self._stdin >= 0:
            asyncio.get_running_loop().remove_writer(self._stdin)

    def _close_stdin(self) -> None:
        if self._stdin >= 0:
            self._wake()
            os.close(self._stdin)
            self._stdin = -1

    def kill(self) -> None:
        if self._task is not None:
            self._task.cancel()

    # to the client ---------------------------------------------------------------------------------

    def _send(self, **fields: object) -> None:
        message = Message(ProcessID=self._name, **fields)  # type: ignore[arg-type]
        self._call.send_nowait(message.SerializeToString())

    async def run(self) -> None:
        wanted = set(self._init.Fds)
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        theirs = [null, null, null]
        ours: dict[int, int] = {}
        opened = [null]
        for fd in _FDS:
            if fd not in wanted:
                continue
            read, write = os.pipe()
            theirs[fd], ours[fd] = (read, write) if fd == 0 else (write, read)
            opened.append(theirs[fd])
        self._stdin = ours.pop(0, -1)
        if self._stdin >= 0:
            os.set_blocking(self._stdin, False)
        # Who joins a container is told to have started at once. BuildKit's client hands over the messages of
        # all its processes one by one: with the output of an earlier one before this, it would wait for who
        # reads that, and he for this.
        joins = self._container.has_first
        loop = asyncio.get_running_loop()
        self._task = loop.create_task(
            self._run(tuple(theirs), lambda: loop.call_soon_threadsafe(self._runs.set))
        )
        self._task.add_done_callback(lambda _: self._runs.set())
        if not joins:
            await self._runs.wait()
        self._send(Started=gateway_pb2.StartedMessage())
        self.is_set_up.set()
        async with asyncio.TaskGroup() as group:
            for number, fd in ours.items():
                group.create_task(self._read(number, fd))
            await asyncio.wait([self._task])
            # Not before: with a terminal it is this process that reads and writes the other ends.
            for fd in opened:
                os.close(fd)
        self._close_stdin()
        self._send(Exit=self._exit(self._task))
        self._send(Done=gateway_pb2.DoneMessage())

    async def _run(self, stdio: tuple[int, ...], on_start: object) -> int:
        init = self._init
        op = exec_op(
            meta=init.Meta,
            mounts=[llb_pb2.Mount(dest="/", input=-1)],
            security=init.Security,
            secretenv=init.secretenv,
        )

        async def work(bench: Workbench) -> int:
            return await self._container.run(
                op.meta,
                stdio=(stdio[0], stdio[1], stdio[2]),
                handle=self._handle,
                security=op.security,
                secret_env=op.secret_env,
                tty=init.Tty,
                on_start=on_start,  # type: ignore[arg-type]
            )

        return await self._job.run(work)

    async def _read(self, number: int, fd: int) -> None:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=_CHUNK * 2)
        transport, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(fd, "rb")
        )
        try:
            while data := await reader.read(_CHUNK):
                self._send(File=gateway_pb2.FdMessage(Fd=number, Data=data))
                if self._call.pending > 1 << 20:
                    await self._call.drained()
            self._send(File=gateway_pb2.FdMessage(Fd=number, EOF=True))
        finally:
            transport.close()

    def _exit(self, task: asyncio.Task[int]) -> gateway_pb2.ExitMessage:
        if task.cancelled():
            status = rpcstatus_pb2.Status(code=Code.CANCELLED, message="context canceled")
            return gateway_pb2.ExitMessage(Code=_UNKNOWN, Error=status)
        error = task.exception()
        if error is not None:
            failure = translate(error if isinstance(error, Exception) else RuntimeError(str(error)))
            return gateway_pb2.ExitMessage(Code=_UNKNOWN, Error=status_of(failure))
        code = task.result()
        if not code:
            return gateway_pb2.ExitMessage()
        detail = wellknown_pb2.Any(type_url=_EXIT, value=json.dumps({"Code": code}).encode())
        status = rpcstatus_pb2.Status(code=Code.UNKNOWN, message=f"exit code: {code}", details=[detail])
        return gateway_pb2.ExitMessage(Code=code, Error=status)
