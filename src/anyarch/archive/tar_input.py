"""The input side of the tar reader: a buffered stream that knows its position, and the content of one
entry.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from anyarch.errors import MalformedArchive

if TYPE_CHECKING:
    from typing_extensions import Buffer

    class Source(Protocol):
        """Where a tar is read from: fewer bytes than asked may come, none means the end."""

        def read(self, size: int, /) -> bytes: ...


__all__ = ["ContentReader", "TarInput", "truncated"]

_BLOCK = 512
_READ_SIZE = 256 << 10
_SEEK_FROM = 64 << 10  # a shorter gap is read through


class ContentReader:
    """The content of one entry: empty for all kinds but FILE. Ends with the next step of the iterator.

    `segments` is None but for a sparse file; then it lists (offset, length) of the parts that are data, and
    everything else reads as zeros.
    """

    __slots__ = ("_input", "_left", "segments")

    def __init__(self, source: TarInput, left: int) -> None:
        self._input = source
        self._left = left
        self.segments: tuple[tuple[int, int], ...] | None = None

    def read(self, size: int = -1, /) -> bytes:
        """Up to `size` bytes (all that are left when negative); `b""` only at the end of the content."""
        left = self._left
        if size < 0:
            return self.readall()
        if size > left:
            size = left
        if not size:
            return b""
        data = self._input.some(size)
        self._left = left - len(data)
        return data

    def readall(self) -> bytes:
        """The whole rest of the content, however large it is."""
        pieces = []
        while data := self.read(_READ_SIZE):
            pieces.append(data)
        return b"".join(pieces)

    def readinto(self, buffer: Buffer, /) -> int:
        """Fill `buffer` as far as `read` of its length would."""
        with memoryview(buffer) as raw, raw.cast("B") as view:
            data = self.read(len(view))
            view[: len(data)] = data
            return len(data)

    def finish(self) -> int:
        """End the reader; the bytes of the archive that it has not read."""
        left, self._left = self._left, 0
        return left


class TarInput:
    """`source` with a buffer, and the position in the archive."""

    __slots__ = ("_at", "_base", "_buffer", "_seek", "_source")

    def __init__(self, source: Source) -> None:
        self._source = source
        self._buffer = b""
        self._at = 0
        self._base = 0  # position in the archive of the buffer's begin
        seekable = getattr(source, "seekable", None)
        self._seek: Any = getattr(source, "seek", None) if seekable is not None and seekable() else None

    @property
    def position(self) -> int:
        return self._base + self._at

    def block(self) -> bytes | None:
        """The next 512 bytes; None at the end of the input."""
        at = self._at
        data = self._buffer[at : at + _BLOCK]
        if len(data) == _BLOCK:
            self._at = at + _BLOCK
            return data
        if not self._fill(_BLOCK):
            if self._at == len(self._buffer):
                return None
            raise truncated()
        self._at = _BLOCK
        return self._buffer[:_BLOCK]

    def some(self, size: int) -> bytes:
        """From 1 to `size` bytes; MalformedArchive at the end of the input."""
        at = self._at
        data = self._buffer[at : at + size]
        if data:
            self._at = at + len(data)
            return data
        self._base += at
        self._at = 0
        self._buffer = b""
        data = self._source.read(size if size >= _READ_SIZE else _READ_SIZE)
        if not data:
            raise truncated()
        if len(data) > size:
            self._buffer = data
            self._at = size
            return data[:size]
        self._base += len(data)
        return data

    def exactly(self, size: int) -> bytes:
        """`size` bytes, all of them (the caller limits `size`)."""
        at = self._at
        if at + size > len(self._buffer):
            if not self._fill(size):
                raise truncated()
            at = 0
        self._at = at + size
        return self._buffer[at : at + size]

    def skip(self, size: int) -> None:
        at = self._at + size
        if at <= len(self._buffer):
            self._at = at
            return
        size = at - len(self._buffer)
        self._base += len(self._buffer)
        self._buffer = b""
        self._at = 0
        if self._seek is not None and size >= _SEEK_FROM:
            # To the last byte that is skipped: a seek beyond the end of a file would not fail.
            self._seek(size - 1, 1)
            self._base += size - 1
            size = 1
        while size:
            size -= len(self.some(min(size, _READ_SIZE)))

    def _fill(self, size: int) -> bool:
        """Have at least `size` bytes from the position on in the buffer; False when the input ends before."""
        pieces = [self._buffer[self._at :]]
        have = len(pieces[0])
        while have < size:
            data = self._source.read(max(_READ_SIZE, size - have))
            if not data:
                break
            pieces.append(data)
            have += len(data)
        self._base += self._at
        self._buffer = b"".join(pieces)
        self._at = 0
        return have >= size


def truncated() -> MalformedArchive:
    return MalformedArchive(
        "the tar archive ends too early", hint="the file or download is truncated; fetch it again"
    )
