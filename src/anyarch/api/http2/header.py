"""Header blocks (RFC 7541).

What we send never enters the peer's dynamic table and is not Huffman coded: encoding is a concatenation, and
a block that is sent often is made once. What we receive is decoded by `hpack`, with limits on the size of the
block and of the list, so that a small block cannot become a large list.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hpack import Decoder
from hpack.exceptions import HPACKError, OversizedHeaderListError

from anyarch.api.http2.errors import COMPRESSION_ERROR, ENHANCE_YOUR_CALM, ProtocolError

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["MAX_BLOCK", "MAX_LIST", "BlockDecoder", "Headers", "encode_headers"]

Headers = list[tuple[str, str]]

MAX_BLOCK = 1 << 20
"""Bytes of one header block with its continuations. grpc-go's own limit is 16 MiB; nothing of ours comes
near."""
MAX_LIST = 4 << 20
_PAIR = 200
"""What a pair takes besides its characters."""
_UPDATES = 8


def _length(size: int) -> bytes:
    if size < 127:
        return bytes((size,))
    out = bytearray((127,))
    size -= 127
    while size > 127:
        out.append(size & 127 | 128)
        size >>= 7
    out.append(size)
    return bytes(out)


def encode_headers(headers: Iterable[tuple[str, str]]) -> bytes:
    """A block of literals without indexing. Names have to be in lower case."""
    parts: list[bytes] = []
    for name, value in headers:
        key, data = name.encode("ascii"), value.encode("utf-8")
        parts += (b"\0", _length(len(key)), key, _length(len(data)), data)
    return b"".join(parts)


class BlockDecoder:
    """Decodes the blocks of one direction of a connection, in order."""

    def __init__(self) -> None:
        self._decoder = Decoder(max_header_list_size=MAX_LIST)

    def decode(self, block: bytes) -> tuple[Headers, int]:
        """The list, and about how much memory it takes. Raises `ProtocolError`: the connection cannot go on
        without the block."""
        if _has_many_updates(block):
            raise ProtocolError(COMPRESSION_ERROR, "too many updates of the table's size")
        try:
            found = self._decoder.decode(block, raw=True)
        except OversizedHeaderListError as error:
            raise ProtocolError(ENHANCE_YOUR_CALM, "the list of headers is too large") from error
        except HPACKError as error:
            raise ProtocolError(COMPRESSION_ERROR, f"malformed header block: {error}") from error
        headers = [
            (str(name, "latin-1"), str(value, "utf-8", "surrogateescape")) for name, value, *_ in found
        ]
        return headers, sum(len(name) + len(value) + _PAIR for name, value in headers)


def _has_many_updates(block: bytes) -> bool:
    """Whether a block begins with more updates of the dynamic table's size than one can need (RFC 7541,
    4.2: two); each costs far more time than its byte."""
    position = updates = 0
    while position < len(block) and block[position] & 0xE0 == 0x20:
        updates += 1
        if updates > _UPDATES:
            return True
        if block[position] & 0x1F == 0x1F:
            position += 1
            while position < len(block) and block[position] & 0x80:
                position += 1
        position += 1
    return False
