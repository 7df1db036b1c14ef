"""Writing OCI layouts (image-spec, image-layout.md): every file whole or not there, by several processes at
once.

What is unfinished is in `ingest/` beside the blobs (containerd's store has the same), under locks that end
with their process; the next writer clears what nobody holds. All functions raise `OSError`.
"""

from __future__ import annotations

import fcntl
import os
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import msgspec

from anyarch.spec import media
from anyarch.spec.oci import Index, decode, encode
from anyarch.store.partial import clear_partials, ingest_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from anyarch.spec.oci import Descriptor

__all__ = [
    "REF_NAME",
    "change_index",
    "close_layout",
    "ingest_of",
    "locked",
    "open_layout",
    "unique_name",
    "with_tag",
    "write_file",
]

REF_NAME = "org.opencontainers.image.ref.name"
_MARKER = b'{"imageLayoutVersion":"1.0.0"}'


def ingest_of(layout: str) -> str:
    """The directory of what is unfinished."""
    return f"{layout}/ingest"


def unique_name(file: str) -> str:
    """A name in `ingest/` for `file`, which no other thread has."""
    return f"{os.path.basename(file)}.{os.getpid()}.{threading.get_ident()}"


def open_layout(layout: str) -> None:
    """Make the directory a layout, if it is none yet, and clear what dead writers left."""
    os.makedirs(f"{layout}/blobs/sha256", exist_ok=True)
    clear_partials(ingest_of(layout))
    if not os.path.exists(f"{layout}/oci-layout"):
        write_file(layout, "oci-layout", (_MARKER,))


def write_file(layout: str, name: str, parts: Iterable[bytes]) -> None:
    """A file of the layout; one of that name is replaced."""
    file = f"{layout}/{name}"
    out = ingest_file(ingest_of(layout), unique_name(file))
    try:
        for part in parts:
            out.write(part)
        out.publish(file)
    finally:
        out.discard()


def close_layout(layout: str) -> None:
    """Take away `ingest/` when nothing is in it."""
    try:
        os.rmdir(ingest_of(layout))
    except OSError:
        return  # a part of a blob is kept there, or another process writes to the layout


@contextmanager
def locked(layout: str) -> Iterator[None]:
    """One writer of the index at a time, as far as the file system knows locks."""
    number = os.open(layout, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(number, fcntl.LOCK_EX)
        yield
    finally:
        os.close(number)


def change_index(layout: str, change: Callable[[Sequence[Descriptor]], Iterable[Descriptor]]) -> None:
    """Replace the entries of index.json by what `change` makes of them; for callers that hold the lock. What
    else the index says stays."""
    try:
        with open(f"{layout}/index.json", "rb") as file:
            index = decode(Index, file.read())
    except FileNotFoundError:
        index = Index(schema_version=2, media_type=media.OCI_INDEX, manifests=())
    changed = msgspec.structs.replace(index, manifests=tuple(change(index.manifests)))
    write_file(layout, "index.json", (encode(changed),))


def with_tag(entry: Descriptor, tag: str, known: Sequence[Descriptor]) -> list[Descriptor]:
    """The entries of an index when `tag` names `entry` from now on. One without a tag counts as `latest`."""
    kept = [item for item in known if (item.annotations or {}).get(REF_NAME, "latest") != tag]
    return [*kept, entry]
