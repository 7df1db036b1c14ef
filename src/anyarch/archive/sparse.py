"""GNU tar's sparse files: the old header form, and the PAX forms 0.0, 0.1 and 1.0 (GNU tar manual, appendix
D).

We read them, as ADDed archives and some old layers have them, and never write them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from anyarch.archive.tar_input import ContentReader, truncated
from anyarch.errors import MalformedArchive

if TYPE_CHECKING:
    from anyarch.archive.tar_input import TarInput

__all__ = ["SparseReader", "read_map"]

Segments = tuple[tuple[int, int], ...]

_MAX_SEGMENTS = 1 << 16
_MAX_SIZE = (1 << 63) - 1
_ZEROS = bytes(256 << 10)


class SparseReader(ContentReader):
    """The content with the holes as zeros. `segments` (offset, length) are the parts that are stored."""

    __slots__ = ("_at", "_index", "_size")

    def __init__(self, source: TarInput, segments: Segments, size: int, stored: int) -> None:
        super().__init__(source, stored)
        self.segments = segments
        self._size = size
        self._at = 0
        self._index = 0

    def read(self, size: int = -1, /) -> bytes:
        if size < 0:
            return self.readall()
        size = min(size, self._size - self._at)
        if size <= 0:
            return b""
        segments = self.segments or ()
        while self._index < len(segments) and sum(segments[self._index]) <= self._at:
            self._index += 1
        start = segments[self._index][0] if self._index < len(segments) else self._size
        if self._at < start:
            data = _ZEROS[: min(size, start - self._at)]
        else:
            data = super().read(min(size, sum(segments[self._index]) - self._at))
        self._at += len(data)
        return data

    def read_stored(self, size: int, /) -> bytes:
        """As `read`, of the segments alone, which follow one another without the holes; not to be mixed
        with it.
        """
        return super().read(size)

    def finish(self) -> int:
        self._at = self._size
        return super().finish()


def read_map(
    stream: TarInput, header: bytes, records: dict[bytes, bytes], stored: int
) -> tuple[Segments, int, int]:
    """Segments and whole size of the sparse file at `stream`, and how many of its `stored` bytes were the
    map.
    """
    used = 0
    if b"GNU.sparse.major" in records:
        if (records[b"GNU.sparse.major"], records.get(b"GNU.sparse.minor")) != (b"1", b"0"):
            raise MalformedArchive("a sparse file of an unknown form")
        size = _decimal(records.get(b"GNU.sparse.realsize", b""))
        numbers, used = _map_in_content(stream, stored)
    elif header[156:157] == b"S":
        size = _octal(header[483:495])
        numbers = _map_in_headers(stream, header)
    else:
        size = _decimal(records.get(b"GNU.sparse.size", b""))
        text = records.get(b"GNU.sparse.map", b"")
        if text.count(b",") > 2 * _MAX_SEGMENTS:
            raise MalformedArchive("a sparse file with too many parts")
        numbers = [_decimal(number) for number in text.split(b",")] if text else []
    if len(numbers) % 2:
        raise MalformedArchive("a damaged map of a sparse file")
    segments: list[tuple[int, int]] = []
    end = total = 0
    for start, length in zip(numbers[::2], numbers[1::2], strict=True):
        if start < end or start + length > size:
            raise MalformedArchive("a damaged map of a sparse file")
        end = start + length
        if length:  # the last one, of length 0, only marks the size
            segments.append((start, length))
            total += length
    if total != stored - used:
        raise MalformedArchive("the map of a sparse file and its stored size differ")
    return tuple(segments), size, used


def _map_in_content(stream: TarInput, stored: int) -> tuple[list[int], int]:
    """Form 1.0: decimal lines before the data: how many parts, then offset and length of each."""
    text = b""
    pieces: list[bytes] = []
    wanted = 1
    lines = used = 0
    while lines < wanted:
        if used + 512 > stored:
            raise MalformedArchive("a damaged map of a sparse file")
        block = stream.exactly(512)
        used += 512
        pieces.append(block)
        lines += block.count(b"\n")
        if wanted == 1 and lines:
            count = _decimal(b"".join(pieces).partition(b"\n")[0])
            if count > _MAX_SEGMENTS:
                raise MalformedArchive("a sparse file with too many parts")
            wanted += 2 * count
        elif wanted == 1 and used > 512:
            raise MalformedArchive("a damaged map of a sparse file")
    text = b"".join(pieces)
    return [_decimal(line) for line in text.split(b"\n")[1:wanted]], used


def _map_in_headers(stream: TarInput, header: bytes) -> list[int]:
    """Old GNU form: four parts in the header, 21 in each block that follows it."""
    numbers: list[int] = []
    block, start, count, more = header, 386, 4, header[482]
    while True:
        for at in range(start, start + 24 * count, 24):
            if not block[at]:
                break
            numbers += (_octal(block[at : at + 12]), _octal(block[at + 12 : at + 24]))
        if not more:
            return numbers
        if len(numbers) > 2 * _MAX_SEGMENTS:
            raise MalformedArchive("a sparse file with too many parts")
        following = stream.block()
        if following is None:
            raise truncated()
        block, start, count, more = following, 0, 21, following[504]


def _decimal(text: bytes) -> int:
    if not text.isdigit() or len(text) > 19 or int(text) > _MAX_SIZE:
        raise MalformedArchive(f"a damaged number in the map of a sparse file: {text[:30]!r}")
    return int(text)


def _octal(field: bytes) -> int:
    from anyarch.archive.tar_reader import parse_number

    value = parse_number(field)
    if not 0 <= value <= _MAX_SIZE:
        raise MalformedArchive("a damaged number in the map of a sparse file")
    return value
