"""A part of a file as a file of its own: content of one entry in a layer's tar, or of a whole file."""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING

from anyarch.errors import StoreError
from anyarch.store.failure import DAMAGED

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import BinaryIO, NoReturn

__all__ = ["FileSlice", "SharedFile", "reader_of"]


class FileSlice(io.RawIOBase):
    """Bytes `offset` .. `offset + size` of `path`, which is opened at the first read (links are not
    followed) and closed at the end of the content. A file that is too short is an error, never a short
    answer."""

    def __init__(self, path: str | bytes, offset: int, size: int) -> None:
        self.path = path
        self.size = size
        self._offset = offset
        self._position = 0
        self._fd = -1

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def read(self, size: int = -1, /) -> bytes:
        left = self.size - self._position
        if left <= 0:
            self._release()
            return b""
        wanted = left if size < 0 or size > left else size
        if not wanted:
            return b""
        if self._fd < 0:
            self._fd = self._open()
        data = os.pread(self._fd, wanted, self._offset + self._position)
        if not data:
            self._short()
        self._position += len(data)
        if size < 0 and len(data) < left:  # pread gives at most 2 GiB at once
            return data + self.read()
        if self._position >= self.size:
            self._release()
        return data

    def readall(self) -> bytes:
        return self.read()

    def readinto(self, buffer: bytearray | memoryview, /) -> int:  # type: ignore[override]
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._release()
        super().close()

    def _open(self) -> int:
        return _open(self.path)

    def _short(self) -> NoReturn:
        raise _too_short(self.path)

    def _release(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class SharedFile:
    """Parts of one file, which is opened at the first read and closed by `close`."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._fd = -1

    def reader(self, start: int, length: int) -> Callable[[int, int], bytes]:
        """`read(offset, size)` of the bytes `start` .. `start + length`: less at their end only."""

        def read(offset: int, size: int) -> bytes:
            wanted = min(size, length - offset)
            if wanted <= 0:
                return b""
            if self._fd < 0:
                self._fd = _open(self.path)
            data = os.pread(self._fd, wanted, start + offset)
            if len(data) < wanted:
                raise _too_short(self.path)
            return data

        return read

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> SharedFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def reader_of(stream: BinaryIO) -> Callable[[int, int], bytes]:
    """`read(offset, size)` of an open file."""

    def read(offset: int, size: int) -> bytes:
        stream.seek(offset)
        return stream.read(size)

    return read


def _open(path: str | bytes) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError as error:
        raise StoreError(f"cannot read {os.fsdecode(path)} in the store: {error.strerror}") from error


def _too_short(path: str | bytes) -> StoreError:
    return StoreError(f"{os.fsdecode(path)} in the store is shorter than recorded", hint=DAMAGED)
