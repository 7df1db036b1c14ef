"""Outputs sent to a client through its session: archives as bytes, directories as file transfers, images into
its content store."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING

from anyarch.api.rpc.status import Code, RpcError
from anyarch.api.rpc.tunnel import data_message
from anyarch.errors import NotSupported, OutputError
from anyarch.session.blobs import write_blob
from anyarch.session.sender import send_tree

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import BinaryIO

    from anyarch.api.rpc.client import ClientCall
    from anyarch.archive.entry import Entry
    from anyarch.exporter.assemble import AssembledImage
    from anyarch.session.lender import Sessions, WireCalls
    from anyarch.snapshot.tree import Node, TreeView
    from anyarch.store.content import ContentStore

__all__ = ["SessionOutputs"]

_DIFF_COPY = "/moby.filesync.v1.FileSend/DiffCopy"
_CHUNK = 1 << 20
_EXPORTER = "buildkit-attachable-exporter-id"


class SessionOutputs:
    """Implements `engine.export.Receiver` for the session of a build."""

    def __init__(self, sessions: Sessions, calls: WireCalls, session: str) -> None:
        self._sessions = sessions
        self._calls = calls
        self._session = session

    # archives --------------------------------------------------------------------------------------

    @contextmanager
    def file(
        self, number: int, metadata: dict[str, str], *, may_exist: bool = False
    ) -> Iterator[Callable[[bytes | memoryview], object]]:
        pairs = [(_EXPORTER, str(number))]
        pairs += [(f"exporter-md-{key}", value) for key, value in metadata.items()]
        call = self._calls(self._start(pairs))
        gathered = bytearray()

        def write(data: bytes | memoryview) -> int:
            gathered.extend(data)
            if len(gathered) >= _CHUNK:
                self._calls(self._send(call, bytes(gathered)))
                gathered.clear()
            return len(data)

        try:
            yield write
            if gathered:
                self._calls(self._send(call, bytes(gathered)))
            self._calls(self._finish(call))
        except RpcError as error:
            if may_exist and error.code == Code.ALREADY_EXISTS:
                return
            raise _refused(error) from None
        finally:
            self._calls.later(call.cancel)

    async def _start(self, metadata: list[tuple[str, str]]) -> ClientCall:
        session = await self._sessions.get(self._session)
        if not session.serves(_DIFF_COPY):
            raise NotSupported("the client takes no output", hint="it has to offer a destination")
        return session.channel.start(_DIFF_COPY, metadata=metadata)

    async def _send(self, call: ClientCall, data: bytes) -> None:
        await call.send(data_message(data))

    async def _finish(self, call: ClientCall) -> None:
        await call.drained()
        call.end()
        while await call.recv() is not None:
            pass

    # directories -----------------------------------------------------------------------------------

    def directory(
        self, number: int, files: list[tuple[Entry, TreeView | None, Node]], *, is_split: bool
    ) -> None:
        metadata = [(_EXPORTER, str(number)), ("buildkit-exporter-multi-platform", "1")]
        try:
            self._calls(self._send_files(metadata, files))
        except RpcError as error:
            raise _refused(error) from None

    async def _send_files(
        self, metadata: list[tuple[str, str]], files: list[tuple[Entry, TreeView | None, Node]]
    ) -> None:
        call = await self._start(metadata)
        try:
            await send_tree(_Outgoing(files), _Packets(call))  # type: ignore[arg-type]
            call.end()
            while await call.recv() is not None:
                pass
        finally:
            call.cancel()

    # images ----------------------------------------------------------------------------------------

    def layout(self, number: int, image: AssembledImage, content: ContentStore) -> None:
        """Blobs before what names them; the client makes the index of its layout itself."""
        documents = [item.descriptor for item in image.platforms]
        documents += [item.descriptor for item in image.attestations]
        blobs = [layer for item in image.platforms for layer in item.layers]
        blobs += [blob.descriptor() for item in image.attestations for blob in item.blobs]
        configs = [item.config.descriptor() for item in image.platforms]
        root = [image.descriptor] if image.index is not None else []
        try:
            for descriptor in dict.fromkeys(
                (item.digest, item.size) for item in (*blobs, *configs, *documents, *root)
            ):
                self._calls(self._write_blob(*descriptor, content))
        except RpcError as error:
            raise _refused(error) from None

    async def _write_blob(self, digest: str, size: int, content: ContentStore) -> None:
        session = await self._sessions.get(self._session)
        await write_blob(session, "export", digest, size, lambda: content.open(digest))


def _refused(error: RpcError) -> OutputError:
    if error.code == Code.ALREADY_EXISTS:
        return OutputError(f"the client did not take the output: {error.message}")
    return OutputError(f"error from receiver: {error.message}")


class _Packets:
    """A call as the stream of a file transfer."""

    def __init__(self, call: ClientCall) -> None:
        self._call = call

    async def receive(self) -> bytes | None:
        return await self._call.recv()

    async def send(self, message: bytes) -> None:
        await self._call.send(message)
        await asyncio.sleep(0)


class _Outgoing:
    """Files of several trees under one root, as `send_tree` looks at them."""

    def __init__(self, files: list[tuple[Entry, TreeView | None, Node]]) -> None:
        from anyarch.archive.entry import Entry, Kind

        directories = {entry.path for entry, _, _ in files if entry.kind is Kind.DIRECTORY}
        missing: dict[str, Entry] = {}
        for entry, _, _ in files:
            parent = entry.path.rpartition("/")[0]
            while parent and parent not in directories and parent not in missing:
                missing[parent] = Entry(parent, Kind.DIRECTORY, 0o755)
                parent = parent.rpartition("/")[0]
        self._nodes = [_OutgoingNode(entry, None, None) for entry in missing.values()]
        self._nodes += [_OutgoingNode(entry, tree, node) for entry, tree, node in files]

    def walk(self, path: str) -> list[_OutgoingNode]:
        return self._nodes

    def open(self, node: _OutgoingNode) -> BinaryIO:
        assert node.tree is not None
        assert node.source is not None
        return node.tree.open(node.source)


class _OutgoingNode:
    __slots__ = ("entry", "source", "tree")

    def __init__(self, entry: Entry, tree: TreeView | None, source: Node | None) -> None:
        self.entry = entry
        self.tree = tree
        self.source = source
