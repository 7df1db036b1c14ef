"""A build cache in a directory: an OCI layout whose index names the cache by its tag."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from anyarch.cache.exporter import documents, fetch_blob
from anyarch.cache.importer import read_local_document
from anyarch.cache.merge import merge
from anyarch.errors import AnyarchError
from anyarch.spec import media
from anyarch.spec.digest import Digest
from anyarch.spec.oci import Index, decode, encode
from anyarch.store.failure import disk_errors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from anyarch.cache.exporter import ExportedCache
    from anyarch.spec.oci import Blob
    from anyarch.worker.worker import Worker

__all__ = ["to_directory"]

_NAME = "org.opencontainers.image.ref.name"


def to_directory(
    worker: Worker, cache: ExportedCache, dest: str, *, tag: str, on_step: Callable[[str], None]
) -> Blob:
    """Write into an OCI layout at `dest`, `index.json` last; what other caches have there stays, and what
    other builds wrote into this one. Answers the manifest."""
    directory = Path(os.path.abspath(dest))
    blobs = directory / "blobs" / "sha256"
    content = worker.store.content
    with disk_errors(directory):
        blobs.mkdir(parents=True, exist_ok=True)
        for digest, descriptor in cache.document.blobs.items():
            target = blobs / Digest(digest).hex
            if not target.exists() or target.stat().st_size != descriptor.size:
                fetch_blob(worker, descriptor, cache.layer_ids[digest])
                with content.open(digest) as stream:
                    _write(target, iter(partial(stream.read, 1 << 20), b""))
            on_step(f"writing layer {digest}")
        with _locked(directory):
            try:
                others = [read_local_document(str(directory), tag=tag)]
            except AnyarchError:
                others = []  # none yet, or one that is of no use
            manifest, config = documents(merge([cache.document, *others], time.time()), cache.options)
            for document in (config, manifest):
                _write(blobs / document.digest.hex, (document.raw,))
            _write(directory / "oci-layout", (b'{"imageLayoutVersion":"1.0.0"}',))
            old = directory / "index.json"
            kept = decode(Index, old.read_bytes()).manifests if old.exists() else ()
            kept = tuple(item for item in kept if (item.annotations or {}).get(_NAME, "latest") != tag)
            entry = manifest.descriptor(annotations={_NAME: tag})
            index = Index(schema_version=2, media_type=media.OCI_INDEX, manifests=(*kept, entry))
            _write(old, (encode(index),))
    on_step(f"writing cache manifest {manifest.digest}")
    return manifest


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """One writer of the index at a time, as far as the file system knows locks."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _write(path: Path, parts: Iterable[bytes]) -> None:
    """Whole or not at all."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}")
    try:
        with open(unfinished, "wb") as file:
            for part in parts:
                file.write(part)
        os.rename(unfinished, path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
