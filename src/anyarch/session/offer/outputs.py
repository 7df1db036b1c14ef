"""Where the files of a build go: FileSend of the session, by the number of the exporter."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol

from anyarch.api.rpc.status import Code, RpcError
from anyarch.api.rpc.tunnel import message_data
from anyarch.errors import AnyarchError, OutputError
from anyarch.session.packet import ERR, encode_packet
from anyarch.session.receiver import TreeReceiver
from anyarch.spec.number import natural

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from anyarch.api.rpc.metadata import Metadata
    from anyarch.api.rpc.server import Handler, ServerCall

__all__ = ["DirectoryTarget", "FileTarget", "PipeTarget", "Target", "output_methods"]

_DIFF_COPY = "/moby.filesync.v1.FileSend/DiffCopy"
_EXPORTER = "buildkit-attachable-exporter-id"
_METADATA = "exporter-md-"
_IN_ONE = "buildkit-exporter-multi-platform"


class Target(Protocol):
    """Takes what one exporter sends. `metadata` is what the exporter says of it."""

    async def receive(self, call: ServerCall, metadata: dict[str, str]) -> None: ...


def output_methods(targets: Mapping[int, Target], failures: list[AnyarchError]) -> dict[str, Handler]:
    """`failures` gets what went wrong here, which the builder answers only with a text."""

    async def diff_copy(call: ServerCall) -> None:
        number = call.metadata.get(_EXPORTER, "0")
        position = natural(number)
        target = None if position is None else targets.get(position)
        if target is None:
            raise RpcError(Code.NOT_FOUND, f"no output has the number {number}")
        try:
            await target.receive(call, _exporter_metadata(call.metadata))
        except RpcError:
            raise
        except AnyarchError as error:
            failures.append(error)
            raise

    return {_DIFF_COPY: diff_copy}


def _exporter_metadata(metadata: Metadata) -> dict[str, str]:
    return {key.removeprefix(_METADATA): value for key, value in metadata if key.startswith(_METADATA)}


class FileTarget:
    """A file, complete or not there; `-` is standard output."""

    def __init__(self, dest: str) -> None:
        self._dest = dest

    async def receive(self, call: ServerCall, metadata: dict[str, str]) -> None:
        try:
            with self._opened() as stream:
                await _copy(call, stream)
        except OSError as error:
            from anyarch.store.whole_file import output_error

            raise output_error(error, self._dest) from error

    @contextlib.contextmanager
    def _opened(self) -> Iterator[BinaryIO]:
        from anyarch.store.whole_file import clear_leftovers, whole_file

        if self._dest == "-":
            yield sys.stdout.buffer
            sys.stdout.buffer.flush()
            return
        path = Path(self._dest)
        if path.is_dir():
            raise OutputError(f"destination file {path} is a directory")
        if path.parent.is_dir():
            clear_leftovers(path.parent)
        with whole_file(path) as stream:
            yield stream


class PipeTarget:
    """The standard input of a program, such as `docker load`."""

    def __init__(self, argv: list[str]) -> None:
        self._argv = argv

    async def receive(self, call: ServerCall, metadata: dict[str, str]) -> None:
        process = await asyncio.create_subprocess_exec(
            *self._argv,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        said = asyncio.create_task(process.stdout.read())
        try:
            try:
                while (message := await call.recv()) is not None:
                    process.stdin.write(message_data(message))
                    await process.stdin.drain()
            except ConnectionError:
                pass  # it tells why itself, below
            process.stdin.close()
            output = (await said).decode("utf-8", "replace").strip()
            if await process.wait() != 0:
                raise OutputError(f"{' '.join(self._argv)} failed: {output or process.returncode}")
        finally:
            said.cancel()
            if process.returncode is None:
                process.kill()
                await process.wait()


class DirectoryTarget:
    """A directory: files are put into it. What is there already stays, or with `is_deleting` goes, where it
    is not part of the result."""

    def __init__(self, dest: str, *, is_deleting: bool = False) -> None:
        self._dest = dest
        self._is_deleting = is_deleting

    async def receive(self, call: ServerCall, metadata: dict[str, str]) -> None:
        from anyarch.archive.apply import Unpacker

        if self._is_deleting and call.metadata.get(_IN_ONE) != "1":
            raise OutputError(
                "mode=delete is not supported by this builder",
                hint="it may send each platform by itself, and then each would delete the others' files",
            )
        _make_directory(Path(self._dest))
        with Unpacker(self._dest, whiteouts="delete", chown=False, keep_root=True) as unpacker:
            receiver = TreeReceiver(unpacker)
            try:
                while (message := await call.recv()) is not None:
                    for answer in receiver.feed(message):
                        await call.send(answer)
            except RpcError:
                raise
            except AnyarchError as error:
                await call.send(encode_packet(ERR, data=error.message.encode("utf-8", "replace")))
                raise
            finally:
                receiver.close()
            if not receiver.is_finished:
                raise OutputError(f"{self._dest}: the builder ended before it had sent all files")
            unpacker.finish()
        if self._is_deleting:
            from anyarch.exporter.files import delete_others

            try:
                await asyncio.to_thread(delete_others, self._dest, set(receiver.paths))
            except OSError as error:
                from anyarch.store.whole_file import output_error

                raise output_error(error, self._dest) from error


async def _copy(call: ServerCall, stream: BinaryIO) -> None:
    while (message := await call.recv()) is not None:
        stream.write(message_data(message))


def _make_directory(path: Path) -> None:
    from anyarch.store.whole_file import output_error

    if path.exists() and not path.is_dir():
        raise OutputError(f"destination {path} is not a directory")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise output_error(error, path) from error
