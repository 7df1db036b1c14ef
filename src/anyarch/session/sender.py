"""Sending a directory: the client's half of a context transfer (fsutil's DiffCopy).

The list of all entries goes out at once; whoever receives asks for the contents that it does not have by
the position in that list. Files are read only then, each as it was when the list was made.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Protocol

from anyarch.archive.entry import Kind
from anyarch.errors import AnyarchError, ProtocolError
from anyarch.session.packet import DATA, ERR, FIN, REQ, STAT, decode_packet, encode_packet, encode_stat

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anyarch.archive.entry import Entry
    from anyarch.snapshot.tree import Node, TreeView

__all__ = ["PacketStream", "send_tree"]

_CHUNK = 128 << 10
_BATCH = 256  # records between two looks at what was asked for


class PacketStream(Protocol):
    """One transfer, as messages both ways."""

    async def receive(self) -> bytes | None:
        """The next message; None when the other side has ended its half."""

    async def send(self, message: bytes) -> None:
        """Send a message; waits while the other side does not take any."""


async def send_tree(tree: TreeView, stream: PacketStream) -> None:
    """Offer `tree` and serve its contents until the receiver has all that it wants.

    Returns when this half of the call has to end: right after the answer to the receiver's FIN, since
    receivers wait for that before they end theirs. Raises `ProtocolError`, and `ContextError` for a file
    that cannot be read or changed meanwhile, which the receiver is told too.
    """
    transfer = _Transfer(tree)
    reader = asyncio.create_task(transfer.read(stream))
    try:
        await transfer.write(stream)
    except AnyarchError as error:
        if not isinstance(error, ProtocolError):
            await stream.send(encode_packet(ERR, data=error.message.encode("utf-8", "surrogateescape")))
        raise
    finally:
        reader.cancel()
        await asyncio.gather(reader, return_exceptions=True)


class _Transfer:
    def __init__(self, tree: TreeView) -> None:
        self._tree = tree
        self._nodes = sorted(
            (node for node in tree.walk("") if node.entry.path), key=lambda node: _order(node.entry)
        )
        self._wanted: deque[int] = deque()
        self._arrived = asyncio.Event()
        self._is_done = False
        self._failure: Exception | None = None

    async def read(self, stream: PacketStream) -> None:
        try:
            while True:
                raw = await stream.receive()
                if raw is None:
                    raise ProtocolError("the builder ended the transfer of files before it had them all")
                packet = decode_packet(raw)
                if packet.type == REQ:
                    self._wanted.append(packet.id)
                elif packet.type == FIN:
                    self._is_done = True
                    return
                elif packet.type == ERR:
                    text = bytes(packet.data).decode("utf-8", "replace")
                    raise ProtocolError(f"the builder refused the files sent to it: {text}")
                else:
                    raise ProtocolError(f"file transfer: packet type {packet.type} from a receiver")
                self._arrived.set()
        except Exception as error:
            self._failure = error
        finally:
            self._arrived.set()

    async def write(self, stream: PacketStream) -> None:
        for number, node in enumerate(self._nodes):
            await stream.send(encode_packet(STAT, stat=encode_stat(node.entry)))
            if number % _BATCH == 0:
                await self._serve(stream)
        await stream.send(encode_packet(STAT))
        while True:
            self._arrived.clear()
            await self._serve(stream)
            if self._is_done:
                await stream.send(encode_packet(FIN))
                return
            if not self._wanted and not self._arrived.is_set():
                await self._arrived.wait()

    async def _serve(self, stream: PacketStream) -> None:
        while self._wanted:
            number = self._wanted.popleft()
            if number >= len(self._nodes) or self._nodes[number].entry.kind is not Kind.FILE:
                raise ProtocolError(f"file transfer: the receiver asks for entry {number}, which is no file")
            for chunk in self._contents(self._nodes[number]):
                await stream.send(encode_packet(DATA, number=number, data=chunk))
            await stream.send(encode_packet(DATA, number=number))
        if self._failure is not None:
            raise self._failure

    def _contents(self, node: Node) -> Iterator[bytes]:
        with self._tree.open(node) as file:
            while data := file.read(_CHUNK):
                yield data


def _order(entry: Entry) -> list[bytes]:
    """The order of the list: names in byte order, a directory before what is in it."""
    return entry.path.encode("utf-8", "surrogateescape").split(b"/")
