"""A build cache in a directory: an OCI layout whose index names the cache by its tag."""

from __future__ import annotations

import errno
import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from anyarch.cache.exporter import BlobsGone, documents
from anyarch.cache.importer import read_local_document
from anyarch.cache.merge import merge
from anyarch.errors import AnyarchError, BlobNotFound, CacheError, NoSpace
from anyarch.spec.digest import Digest
from anyarch.store.layout import (
    REF_NAME,
    change_index,
    close_layout,
    locked,
    open_layout,
    with_tag,
    write_file,
)
from anyarch.worker.transfer import bring_blob

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from anyarch.cache.exporter import ExportedCache
    from anyarch.spec.oci import Blob, Descriptor
    from anyarch.worker.worker import Worker

__all__ = ["errors_of", "to_directory"]

_AT_ONCE = 8
"""Blobs written at a time: each waits for the disk, which takes several as one."""


@contextmanager
def errors_of(directory: Path | str) -> Iterator[None]:
    """Turn every `OSError` inside into a `CacheError` (or `NoSpace`) that names the directory."""
    try:
        yield
    except OSError as error:
        text = f"cannot write the build cache to {directory}: {error.strerror or error}"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoSpace(text, hint="free some space there, or choose another dest") from error
        raise CacheError(
            text, hint="dest has to be a directory that this user can make or write to"
        ) from error


def to_directory(
    worker: Worker, cache: ExportedCache, dest: str, *, tag: str, on_step: Callable[[str], None]
) -> Blob:
    """Write into an OCI layout at `dest`, `index.json` last; what other caches have there stays, and what
    other builds wrote into this one. Answers the manifest. Raises `BlobsGone`."""
    directory = Path(os.path.abspath(dest))
    layout = str(directory)
    content = worker.store.content
    gone = []

    def write(descriptor: Descriptor) -> None:
        digest = descriptor.digest
        target = directory / "blobs" / "sha256" / Digest(digest).hex
        if not target.exists() or target.stat().st_size != descriptor.size:
            try:
                bring_blob(worker, descriptor, cache.layer_ids[digest])
            except BlobNotFound:
                gone.append(digest)
                return
            with content.open(digest) as stream:
                write_file(layout, f"blobs/sha256/{target.name}", iter(partial(stream.read, 1 << 20), b""))

    with errors_of(directory):
        open_layout(layout)
        descriptors = list(cache.document.blobs.values())
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            for descriptor, _ in zip(descriptors, pool.map(write, descriptors), strict=True):
                on_step(f"writing layer {descriptor.digest}")
        if gone:
            raise BlobsGone(gone)
        with locked(layout):
            try:
                others = [read_local_document(str(directory), tag=tag)]
            except AnyarchError:
                others = []  # none yet, or one that is of no use
            manifest, config = documents(merge([cache.document, *others], time.time()), cache.options)
            for document in (config, manifest):
                write_file(layout, f"blobs/sha256/{document.digest.hex}", (document.raw,))
            change_index(layout, partial(with_tag, manifest.descriptor(annotations={REF_NAME: tag}), tag))
        close_layout(layout)
    on_step(f"writing cache manifest {manifest.digest}")
    return manifest
