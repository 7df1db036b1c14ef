"""From a stream into a file that may have a part of it already."""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO, Protocol

from anyarch.errors import DigestMismatch

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from anyarch.http.cancel import Cancel

__all__ = ["Sink", "pour"]

_PIECE = 1 << 20


class Sink(Protocol):
    """What `store.content.BlobWriter` is. `commit` raises `DigestMismatch`."""

    @property
    def offset(self) -> int: ...

    def write(self, data: bytes, /) -> object: ...

    def commit(self) -> object: ...

    def discard(self) -> object: ...


def pour(
    open_source: Callable[[], BinaryIO],
    open_sink: Callable[[], AbstractContextManager[Sink]],
    *,
    on_progress: Callable[[int], None] | None,
    cancel: Cancel | None,
) -> None:
    """Write what the sink lacks, and commit. When the whole turns out wrong although a part was there, that
    part is thrown away and all is written once more. Raises what source and sink raise."""
    from anyarch.http.cancel import check

    tell = on_progress or _nobody
    while True:
        with open_sink() as sink:
            had = sink.offset
            tell(had)
            try:
                with open_source() as stream:
                    stream.seek(had)
                    while piece := stream.read(_PIECE):
                        check(cancel)
                        sink.write(piece)
                        tell(len(piece))
                sink.commit()
                return
            except DigestMismatch:
                sink.discard()
                if not had:
                    raise
                tell(-sink.offset)


def _nobody(count: int) -> None:
    """Nobody watches."""
